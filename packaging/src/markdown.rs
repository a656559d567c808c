//! A page of `docs/` as a manual page.
//!
//! In: Markdown as the pages there use it: headings, paragraphs, lists, tables,
//! fenced code, `code`, `**bold**` and links. Out: roff with the
//! macros of man(7). Of a link its text stays. Invariant: no text of the page is
//! taken for a request, whatever it begins with.

use std::fmt::Write;

/// What the lines of a page are read into.
enum Block {
    Heading {
        level: usize,
        text: String,
    },
    Paragraph(String),
    Item(String),
    /// A row of a table: what it is about, and what is said of it.
    Row {
        subject: String,
        rest: Vec<(String, String)>,
    },
    Code(Vec<String>),
}

/// The page `name` of the manual's `section`, of a date as `2026-12-31`; its
/// first heading says what it is.
pub fn page(name: &str, section: &str, date: &str, markdown: &str) -> String {
    let mut blocks = blocks(markdown).into_iter().peekable();
    let mut text = format!(".TH {name} {section} {date} plywood\n.SH NAME\n{name}");
    if let Some(Block::Heading { text: title, .. }) = blocks.next_if(|b| matches!(b, Block::Heading { .. })) {
        let _ = write!(text, " \\- {}", inline(&title));
    }
    text.push_str("\n.SH DESCRIPTION\n");
    for block in blocks {
        // Writing to a String cannot fail.
        let _ = write_block(&mut text, &block);
    }
    // A heading begins a paragraph by itself.
    text.lines().fold(String::new(), |page, line| {
        let is_after_heading = page.lines().next_back().is_some_and(|last| last.starts_with(".S"));
        if line == ".PP" && is_after_heading { page } else { page + line + "\n" }
    })
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut header: Option<Vec<String>> = None;
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if !line.starts_with('|') {
            header = None;
        }
        let hashes = line.bytes().take_while(|byte| *byte == b'#').count();
        if line.starts_with("```") {
            blocks.push(Block::Code(
                lines.by_ref().take_while(|line| !line.starts_with("```")).map(Into::into).collect(),
            ));
        } else if hashes > 0 {
            blocks.push(Block::Heading { level: hashes, text: line[hashes..].trim().into() });
        } else if let Some(row) = line.strip_prefix('|') {
            let cells = cells(row);
            match &header {
                None => header = Some(cells),
                Some(header) => blocks.extend(row_of(header, cells)),
            }
        } else if let Some(item) = line.strip_prefix("- ") {
            blocks.push(Block::Item(item.into()));
        } else if !line.trim().is_empty() {
            continue_or_begin(&mut blocks, line);
        } else {
            // Ends what the next line would go on with.
            blocks.push(Block::Paragraph(String::new()));
        }
    }
    blocks.retain(|block| !matches!(block, Block::Paragraph(text) if text.is_empty()));
    blocks
}

fn continue_or_begin(blocks: &mut Vec<Block>, line: &str) {
    match blocks.last_mut() {
        Some(Block::Item(text)) => *text = format!("{text} {}", line.trim()),
        Some(Block::Paragraph(text)) if !text.is_empty() => *text = format!("{text} {}", line.trim()),
        _ => blocks.push(Block::Paragraph(line.trim().into())),
    }
}

/// The cells of a table's row; `\|` is a bar in one.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim_end().strip_suffix('|').unwrap_or(row).replace("\\|", "\0");
    row.split('|').map(|cell| cell.trim().replace('\0', "|")).collect()
}

/// Nothing for the line below the header.
fn row_of(header: &[String], cells: Vec<String>) -> Option<Block> {
    if cells.iter().all(|cell| cell.bytes().all(|byte| matches!(byte, b'-' | b':'))) {
        return None;
    }
    let mut cells = header.iter().cloned().zip(cells);
    let (_, subject) = cells.next()?;
    Some(Block::Row { subject, rest: cells.filter(|(_, cell)| !cell.is_empty()).collect() })
}

fn write_block(text: &mut String, block: &Block) -> std::fmt::Result {
    match block {
        Block::Heading { level: ..3, text: title } => writeln!(text, ".SH \"{}\"", inline(title)),
        Block::Heading { text: title, .. } => writeln!(text, ".SS \"{}\"", inline(title)),
        Block::Paragraph(paragraph) => writeln!(text, ".PP\n{}", line(paragraph)),
        Block::Item(item) => writeln!(text, ".IP \\(bu 2\n{}", line(item)),
        Block::Row { subject, rest } => {
            writeln!(text, ".TP\n{}", line(subject))?;
            for (number, (name, cell)) in rest.iter().enumerate() {
                match number {
                    0 => writeln!(text, "{}", line(cell))?,
                    _ => writeln!(text, ".br\n{}: {}", inline(name), inline(cell))?,
                }
            }
            Ok(())
        }
        Block::Code(lines) => {
            writeln!(text, ".PP\n.RS 4\n.nf")?;
            for code in lines {
                writeln!(text, "{}", guarded(escape(code)))?;
            }
            writeln!(text, ".fi\n.RE")
        }
    }
}

/// Text that stands at the beginning of a line.
fn line(text: &str) -> String {
    guarded(inline(text))
}

fn guarded(text: String) -> String {
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// `code` in bold, links without their targets.
fn inline(text: &str) -> String {
    let mut out = String::new();
    for (number, part) in text.split('`').enumerate() {
        if number % 2 == 1 {
            let _ = write!(out, "\\fB{}\\fR", escape(part));
        } else {
            out.push_str(&escape(&without_targets(part).replace("**", "")));
        }
    }
    out
}

/// `[text](target)` becomes `text`. A target may be cut off by nothing but its
/// own bracket: none holds code.
fn without_targets(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, target)) = rest.split_once("](") {
        out.push_str(&before.replacen('[', "", 1));
        rest = target.split_once(')').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

/// Text that roff shows as it is.
pub fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_requests() {
        for (markdown, roff) in [
            ("## Part", ".SH \"Part\"\n"),
            ("### Sub `x`", ".SS \"Sub \\fBx\\fR\"\n"),
            ("one\ntwo\n\nthree", ".PP\none two\n.PP\nthree\n"),
            ("- one\n  two\n- three", ".IP \\(bu 2\none two\n.IP \\(bu 2\nthree\n"),
            ("- one\n\ntwo", ".IP \\(bu 2\none\n.PP\ntwo\n"),
            (
                "| key | value | default |\n|---|---|---|\n| `a\\|b` | c | d |\n| e | f | |",
                ".TP\n\\fBa|b\\fR\nc\n.br\ndefault: d\n.TP\ne\nf\n",
            ),
            ("```sh\n.x \\n\n```\nend", ".PP\n.RS 4\n.nf\n\\&.x \\en\n.fi\n.RE\n.PP\nend\n"),
            ("see [that](x.md#y), **not** `--this`", ".PP\nsee that, not \\fB\\-\\-this\\fR\n"),
            (".so /etc/passwd", ".PP\n\\&.so /etc/passwd\n"),
            ("'x' \"y\"", ".PP\n\\&'x' \\(dqy\\(dq\n"),
        ] {
            let mut text = String::new();
            blocks(markdown).iter().for_each(|block| write_block(&mut text, block).unwrap());
            assert_eq!(text, roff, "{markdown}");
        }
    }

    #[test]
    fn a_page_is_named_by_its_first_heading() {
        let page = page("a.yaml", "5", "2026-12-31", "# What it is\n\nText.\n");
        assert_eq!(
            page,
            ".TH a.yaml 5 2026-12-31 plywood\n.SH NAME\na.yaml \\- What it is\n.SH DESCRIPTION\nText.\n"
        );
    }
}
