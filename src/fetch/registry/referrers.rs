//! The list of what refers to a manifest, from registries with and without
//! the API for it.
//!
//! In: the digest of a manifest. Out: referrers, as the first endpoint that
//! answers tells them, all of them. Invariant: pages are followed at that
//! endpoint only, and not for ever.

use ureq::http::HeaderMap;
use ureq::http::header::{ACCEPT, CONTENT_TYPE, LINK};

use super::error::EndpointError;
use super::http::Answer;
use super::pull::{Failed, Pull};
use super::url::Url;
use crate::fetch::error::Cause;
use crate::limits::Bound;
use crate::oci::Digest;
use crate::oci::manifest::{INDEX, Kind, kind};
use crate::oci::referrers::{Referrer, fallback_tag};
use crate::oci::registries::Endpoint;

/// Most pages of one list.
const MAX_PAGES: usize = 8;

impl Pull<'_> {
    /// None for a manifest that nothing refers to.
    pub(in crate::fetch) fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, Cause> {
        self.try_endpoints(&format!("referrers of {subject}"), |endpoint| {
            self.referrers_at(endpoint, subject).map_err(Failed::Endpoint)
        })
    }

    fn referrers_at(&self, endpoint: &Endpoint, subject: &Digest) -> Result<Vec<Referrer>, EndpointError> {
        match self.index(endpoint, &self.url(endpoint, &format!("referrers/{subject}"))?)? {
            Some(first) => self.pages(endpoint, first),
            None => match self.index(endpoint, &self.url(endpoint, &tagged(subject))?)? {
                Some(mut answer) => self.parse(&mut answer),
                None => Ok(Vec::new()),
            },
        }
    }

    fn pages(&self, endpoint: &Endpoint, first: Answer<'_>) -> Result<Vec<Referrer>, EndpointError> {
        let own = self.url(endpoint, "")?.origin();
        let mut page = first;
        let mut referrers = self.parse(&mut page)?;
        for _ in 1..MAX_PAGES {
            let Some(next) = next_page(&page.url, &page.headers) else { return Ok(referrers) };
            // A redirect may have led elsewhere, but only the endpoint is told who asks.
            if next.origin() != own {
                return Err(EndpointError::Referrers("goes on at another server"));
            }
            let missing = EndpointError::Referrers("lacks a page that it announces");
            page = self.index(endpoint, &next)?.ok_or(missing)?;
            referrers.extend(self.parse(&mut page)?);
        }
        match next_page(&page.url, &page.headers) {
            Some(_) => Err(EndpointError::Referrers("has more than 8 pages")),
            None => Ok(referrers),
        }
    }

    fn parse(&self, answer: &mut Answer<'_>) -> Result<Vec<Referrer>, EndpointError> {
        let limits = self.document_limits();
        let bytes = answer.body.read_all(Bound::Document, limits)?;
        Referrer::parse_all(&bytes, limits).map_err(EndpointError::Document)
    }

    /// Nothing where the endpoint has no such index: it does not know the
    /// API, or the tag.
    fn index(&self, endpoint: &Endpoint, url: &Url) -> Result<Option<Answer<'_>>, EndpointError> {
        match self.ask_url(endpoint, url, vec![(ACCEPT, INDEX.into())]) {
            Ok(answer) if says_index(&answer.headers) => Ok(Some(answer)),
            // Some serve a page for whatever they do not know.
            Ok(_) | Err(EndpointError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn tagged(subject: &Digest) -> String {
    format!("manifests/{}", fallback_tag(subject))
}

fn says_index(headers: &HeaderMap) -> bool {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    said.is_some_and(|said| kind(said) == Kind::Index)
}

/// The target of `Link: <…>; rel="next"` (RFC 8288), wherever it is.
fn next_page(from: &Url, headers: &HeaderMap) -> Option<Url> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        let (target, parameters) = value.trim_start().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), "rel=next" | "rel=\"next\"");
        parameters.split(';').any(is_next).then(|| from.join(target))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_where_the_link_leads() {
        let from = Url::parse("https://a.io/v2/x/referrers/1?ns=b").unwrap();
        for (link, next) in [
            (r#"</v2/x/referrers/1?last=2>; rel="next""#, Some("https://a.io/v2/x/referrers/1?last=2")),
            ("<https://a.io/y>; rel=next", Some("https://a.io/y")),
            (r#"<?n=1>; title="x"; rel="next""#, Some("https://a.io/v2/x/referrers/1?n=1")),
            (r#"<http://b.io/y>; rel="next""#, Some("http://b.io/y")),
            (r#"<file:///y>; rel="next""#, None),
            (r#"</y>; rel="prev""#, None),
            ("</y", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, link.parse().unwrap());
            assert_eq!(next_page(&from, &headers), next.and_then(Url::parse), "{link}");
        }
    }
}
