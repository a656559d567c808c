//! Bytes → documents. The event parser reports syntax; here are encoding,
//! anchors, merge keys, duplicates and the budgets that bound them all.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::Source;
use super::node::{Entry, Node, Scalar, ScalarKind, Value};
use super::problem::{Report, path_to_item, path_to_key};
use crate::limits::Bound;
use crate::text::Escaped;

/// Nodes of all documents of a source, what aliases repeat included.
const MAX_NODES: usize = Bound::YamlValues.length();
/// Bytes of scalars of all documents, what aliases repeat included.
const MAX_TEXT: usize = Bound::YamlText.length();
/// Levels of nesting, what aliases repeat included.
const MAX_DEPTH: usize = Bound::YamlDepth.length();

/// A place as `(line, column)`, both counted from 1.
type At = (u32, u32);

/// Nothing more can be read; the report says why.
struct Stop;

/// Reads the documents of `source`, which may have `max_bytes`.
///
/// Problems go to `report`. What is returned are the documents that could be
/// read as a whole; empty documents are nulls.
pub fn parse(source: &Source, max_bytes: usize, report: &Report) -> Vec<Node> {
    let Some(text) = decode(&source.text, max_bytes, report) else { return Vec::new() };
    let mut builder = Builder::new(report);
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.event(event, &span),
            Err(error) => {
                syntax_problem(text, &error, report);
                Err(Stop)
            }
        };
        if step.is_err() {
            break;
        }
    }
    builder.documents
}

/// The text of a file that is small enough and UTF-8, without a byte order mark.
fn decode<'a>(bytes: &'a [u8], max_bytes: usize, report: &Report) -> Option<&'a str> {
    if bytes.len() > max_bytes {
        report.problem((1, 1), "", format!("{} bytes are more than the {max_bytes} allowed", bytes.len()));
        return None;
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        report.problem((1, 1), "", "this is UTF-16, save it as UTF-8");
        return None;
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
            let line = valid.matches('\n').count() + 1;
            let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            report.problem((line as u32, column as u32), "", "this is not UTF-8");
            None
        }
    }
}

fn syntax_problem(text: &str, error: &ScanError, report: &Report) {
    let (line, column) = (error.marker().line(), error.marker().col() + 1);
    let message = error.info();
    // The parser may stop at what stands before the line with the tab.
    let lines = if message.contains("tab") { usize::MAX } else { 1 };
    let mut candidates = text.lines().enumerate().skip(line.saturating_sub(1)).take(lines);
    match candidates.find_map(|(index, line)| Some((index + 1, tab_in_indent(line)?))) {
        Some((line, tab)) => {
            report.problem((line as u32, tab as u32 + 1), "", "a tab may not indent, use spaces");
        }
        None => report.problem((line as u32, column as u32), "", Escaped::new(&message).to_string()),
    }
}

fn tab_in_indent(line: &str) -> Option<usize> {
    line.bytes().take_while(u8::is_ascii_whitespace).position(|b| b == b'\t')
}

/// What a node costs, for the budgets.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    text: usize,
    height: usize,
}

impl Size {
    fn of(node: &Node) -> Self {
        let mut size = Self { nodes: 1, ..Self::default() };
        match &node.value {
            Value::Scalar(scalar) => size.text = scalar.text.len(),
            Value::Sequence(items) => items.iter().for_each(|item| size.hold(Self::of(item))),
            Value::Mapping(entries) => entries.iter().for_each(|entry| {
                size.text += entry.key.len();
                size.hold(Self::of(&entry.value));
            }),
        }
        size
    }

    fn hold(&mut self, child: Self) {
        self.nodes += child.nodes;
        self.text += child.text;
        self.height = self.height.max(child.height + 1);
    }
}

/// A collection whose end has not come yet.
struct Open {
    at: At,
    anchor: usize,
    content: OpenContent,
}

enum OpenContent {
    Sequence(Vec<Node>),
    Mapping(OpenMapping),
}

#[derive(Default)]
struct OpenMapping {
    entries: Vec<Entry>,
    keys: BTreeMap<String, At>,
    /// The key whose value comes next.
    key: Option<(String, At)>,
    /// Values of `<<`, added at the end where no key of their name is there.
    merged: Vec<Node>,
}

struct Builder<'r> {
    report: &'r Report,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    spent: Size,
    documents: Vec<Node>,
}

impl<'r> Builder<'r> {
    fn new(report: &'r Report) -> Self {
        let (open, anchors, documents) = Default::default();
        Self { report, open, anchors, spent: Size::default(), documents }
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Stop> {
        let at = (span.start.line() as u32, span.start.col() as u32 + 1);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let kind = self.scalar_kind(at, &text, (style, tag.as_deref()))?;
                let value = Value::Scalar(Scalar { text: text.into_owned(), kind });
                self.close(value, at, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.collection_tag(at, tag.as_deref(), "seq")?;
                self.begin(Open { at, anchor, content: OpenContent::Sequence(Vec::new()) })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.collection_tag(at, tag.as_deref(), "map")?;
                self.begin(Open { at, anchor, content: OpenContent::Mapping(OpenMapping::default()) })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(at, anchor),
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn scalar_kind(
        &self,
        at: At,
        text: &str,
        (style, tag): (ScalarStyle, Option<&Tag>),
    ) -> Result<ScalarKind, Stop> {
        match tag {
            None if style == ScalarStyle::Plain => Ok(ScalarKind::of_plain(text)),
            None => Ok(ScalarKind::String),
            Some(tag) if tag.is_yaml_core_schema_tag("str") => Ok(ScalarKind::String),
            Some(_) => self.refuse_tag(at),
        }
    }

    fn collection_tag(&self, at: At, tag: Option<&Tag>, expected: &str) -> Result<(), Stop> {
        match tag {
            Some(tag) if !tag.is_yaml_core_schema_tag(expected) => self.refuse_tag(at),
            _ => Ok(()),
        }
    }

    /// The tag is not shown: it may be a password that begins with `!`.
    fn refuse_tag<T>(&self, at: At) -> Result<T, Stop> {
        self.stop(at, "this tag is not supported (a text that begins with ! has to be quoted)")
    }

    fn begin(&mut self, open: Open) -> Result<(), Stop> {
        let at = open.at;
        self.open.push(open);
        if self.open.len() > MAX_DEPTH { self.stop_at_depth(at) } else { Ok(()) }
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            OpenContent::Sequence(items) => Value::Sequence(items),
            OpenContent::Mapping(mapping) => Value::Mapping(self.merge(mapping)?),
        };
        self.close(value, open.at, open.anchor)
    }

    /// Adds a finished node to what it is part of.
    fn close(&mut self, value: Value, at: At, anchor: usize) -> Result<(), Stop> {
        // What is inside a collection was spent when it was read.
        let text = if let Value::Scalar(scalar) = &value { scalar.text.len() } else { 0 };
        self.spend(at, Size { nodes: 1, text, height: 0 })?;
        let node = Node { line: at.0, column: at.1, value };
        if anchor != 0 {
            self.spend(at, Size::of(&node))?;
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node)
    }

    fn alias(&mut self, at: At, anchor: usize) -> Result<(), Stop> {
        let Some(node) = self.anchors.get(&anchor) else {
            return self.stop(at, "the alias stands inside what it stands for");
        };
        let size = Size::of(node);
        self.spend(at, size)?;
        match self.anchors.get(&anchor).cloned() {
            Some(node) => self.add(node),
            None => Ok(()),
        }
    }

    fn spend(&mut self, at: At, size: Size) -> Result<(), Stop> {
        self.spent.nodes += size.nodes;
        self.spent.text += size.text;
        if self.open.len() + size.height > MAX_DEPTH {
            return self.stop_at_depth(at);
        }
        if self.spent.nodes > MAX_NODES || self.spent.text > MAX_TEXT {
            let limits = format!("{MAX_NODES} values or {} MiB of text", MAX_TEXT >> 20);
            return self.stop(at, format!("more than {limits}, with what aliases repeat"));
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<(), Stop> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.documents.push(node),
            Some(OpenContent::Sequence(items)) => items.push(node),
            Some(OpenContent::Mapping(mapping)) => match mapping.key.take() {
                Some(key) => self.add_entry(key, node),
                None => return self.set_key(node),
            },
        }
        Ok(())
    }

    fn set_key(&mut self, node: Node) -> Result<(), Stop> {
        let at = (node.line, node.column);
        let Value::Scalar(scalar) = node.value else {
            return self.stop(at, format!("{} cannot be a key", node.description()));
        };
        if let Some(Open { content: OpenContent::Mapping(mapping), .. }) = self.open.last_mut() {
            mapping.key = Some((scalar.text, at));
        }
        Ok(())
    }

    fn add_entry(&mut self, (key, at): (String, At), value: Node) {
        let Some(Open { content: OpenContent::Mapping(mapping), .. }) = self.open.last_mut() else { return };
        if key == "<<" {
            mapping.merged.push(value);
            return;
        }
        if let Some((line, column)) = mapping.keys.get(&key).copied() {
            let path = path_to_key(&self.path(), &key);
            self.report.problem(at, &path, format!("this key is already at {line}:{column}"));
            return;
        }
        mapping.keys.insert(key.clone(), at);
        mapping.entries.push(Entry { key, line: at.0, column: at.1, value });
    }

    /// Adds what `<<` brings (YAML 1.1 merge key type): a mapping, or a list of
    /// mappings of which the earlier wins. The mapping's own keys win over all.
    fn merge(&self, mapping: OpenMapping) -> Result<Vec<Entry>, Stop> {
        let OpenMapping { mut entries, mut keys, merged, .. } = mapping;
        for node in merged {
            let at = (node.line, node.column);
            let sources = match node.value {
                Value::Sequence(items) => items,
                value => vec![Node { value, ..node }],
            };
            for source in sources {
                let Value::Mapping(brought) = source.value else {
                    return self.stop(at, "`<<` takes a mapping or a list of mappings");
                };
                for entry in brought {
                    if !keys.contains_key(&entry.key) {
                        keys.insert(entry.key.clone(), (entry.line, entry.column));
                        entries.push(entry);
                    }
                }
            }
        }
        Ok(entries)
    }

    /// The path of the value that comes next.
    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, open| match &open.content {
            OpenContent::Sequence(items) => path_to_item(&path, items.len()),
            OpenContent::Mapping(mapping) => match &mapping.key {
                Some((key, _)) => path_to_key(&path, key),
                None => path,
            },
        })
    }

    fn stop<T>(&self, at: At, message: impl Into<String>) -> Result<T, Stop> {
        self.report.problem(at, &self.path(), message);
        Err(Stop)
    }

    fn stop_at_depth<T>(&self, at: At) -> Result<T, Stop> {
        self.stop(at, format!("nested deeper than {MAX_DEPTH} levels"))
    }
}
