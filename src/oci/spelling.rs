//! Keys of JSON documents that other readers take for ours.
//!
//! In: a document's bytes and the keys that are read from it. Out: the first
//! key that differs from one of them in case only. Go's JSON, which other
//! tools read the same documents with, takes such a key for the one that it
//! resembles, so two readers would see two images. Invariant: nothing of the
//! document is kept.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The first key in `json`, or in what its known keys hold, that resembles a
/// `known` one. `None` also for what is no JSON, which its parser refuses.
pub(super) fn resembling(json: &[u8], known: &[&str]) -> Option<String> {
    let found = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // An error is its parser's to report.
    let _ = Keys { known, found: &found }.deserialize(&mut deserializer);
    found.into_inner()
}

#[derive(Clone, Copy)]
struct Keys<'a> {
    known: &'a [&'a str],
    found: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if self.known.contains(&key.as_str()) {
                map.next_value_seed(self)?;
                continue;
            }
            if self.known.iter().any(|known| folded(&key).eq(folded(known))) {
                self.found.borrow_mut().get_or_insert(key);
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// As Go folds: two characters beyond ASCII stand for letters, too.
fn folded(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_in_case_only_are_found() {
        let known = ["layers", "size", "annotations"];
        for (json, expected) in [
            (r#"{"layers":[{"size":1}]}"#, None),
            (r#"{"layers":[],"Layers":[]}"#, Some("Layers")),
            (r#"{"layers":[{"size":1,"Size":2}]}"#, Some("Size")),
            (r#"{"\u017fize":1}"#, Some("\u{17f}ize")),
            (r#"{"other":{"Layers":1},"sizes":true,"x":[null,-1,1.5]}"#, None),
            (r#"{"other":"#, None),
            ("<html>", None),
        ] {
            assert_eq!(resembling(json.as_bytes(), &known).as_deref(), expected, "{json}");
        }
    }
}
