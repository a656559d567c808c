use std::time::{Duration, Instant};

use super::*;

const MAX_BYTES: usize = 1 << 20;

/// The documents of `text` and its problems as they are shown.
fn read(text: &[u8]) -> (Vec<Node>, Vec<String>) {
    let source = Source { name: "f".into(), text: text.into() };
    let report = Report::new("f");
    let documents = parse(&source, MAX_BYTES, &report);
    (documents, report.finish().iter().map(ToString::to_string).collect())
}

/// A tree as short text: scalars with their kind, mappings and lists as in JSON.
fn show(node: &Node) -> String {
    let join = |parts: Vec<String>| parts.join(" ");
    match &node.value {
        Value::Scalar(Scalar { text, kind }) => match kind {
            ScalarKind::Null => "~".into(),
            ScalarKind::Bool(value) => format!("{value}"),
            ScalarKind::Int => format!("int:{text}"),
            ScalarKind::Float => format!("float:{text}"),
            ScalarKind::String => text.clone(),
        },
        Value::Sequence(items) => format!("[{}]", join(items.iter().map(show).collect())),
        Value::Mapping(entries) => {
            let entry = |entry: &Entry| format!("{}={}", entry.key, show(&entry.value));
            format!("{{{}}}", join(entries.iter().map(entry).collect()))
        }
    }
}

#[test]
fn documents_keep_their_scalars_as_written() {
    for (text, expected) in [
        ("version: 1.10", "{version=float:1.10}"),
        ("a: yes\nb: on\nc: NO", "{a=yes b=on c=NO}"),
        ("a: 'true'\nb: \"12\"", "{a=true b=12}"),
        ("a: true\nb: 0x1F\nc: ~\nd:", "{a=true b=int:0x1F c=~ d=~}"),
        ("a: !!str true", "{a=true}"),
        ("- 1\n- [a, {b: c}]", "[int:1 [a {b=c}]]"),
        ("a: |\n  x\n  y\n", "{a=x\ny\n}"),
        ("\u{feff}a: b", "{a=b}"),
        ("a: &x 1\nb: *x", "{a=int:1 b=int:1}"),
        ("a: b\r\nc: d\r\n", "{a=b c=d}"),
        ("base: &b {x: 1, y: 2}\nall:\n  <<: *b\n  y: 3", "{base={x=int:1 y=int:2} all={y=int:3 x=int:1}}"),
        ("<<: [{x: 1}, {x: 2, z: 3}]", "{x=int:1 z=int:3}"),
    ] {
        let (documents, problems) = read(text.as_bytes());
        assert_eq!(problems, [""; 0], "{text}");
        assert_eq!(documents.iter().map(show).collect::<Vec<_>>(), [expected], "{text}");
    }
}

#[test]
fn several_documents_are_several_nodes() {
    let (documents, problems) = read(b"---\na: 1\n---\n---\n- x\n...\n# end\n");
    assert_eq!(problems, [""; 0]);
    assert_eq!(documents.iter().map(show).collect::<Vec<_>>(), ["{a=int:1}", "~", "[x]"]);
    assert_eq!((documents[0].line, documents[2].line), (2, 5));
    assert!(read(b"").0.is_empty());
}

#[test]
fn a_place_is_where_a_value_begins() {
    let (documents, _) = read("a:\n  größe: [x, 'y']\n".as_bytes());
    let list = documents[0].get("a").and_then(|a| a.get("größe")).unwrap();
    assert_eq!((list.line, list.column), (2, 10));
    let Value::Sequence(items) = &list.value else { panic!("{list:?}") };
    assert_eq!((items[1].line, items[1].column), (2, 14));
}

#[test]
fn what_is_no_plain_yaml_is_refused_with_its_place() {
    for (text, expected) in [
        (&b"a: 1\nb: 2\na: 3"[..], "f:3:1: a: this key is already at 1:1"),
        (b"m:\n - {x: 1, x: 2}", "f:2:11: m[0].x: this key is already at 2:5"),
        (b"1: a\n'1': b", "f:2:1: 1: this key is already at 1:1"),
        (b"a:\n\tb: 1", "f:2:1: a tab may not indent, use spaces"),
        (b"a: 1\nb: \xff", "f:2:4: this is not UTF-8"),
        (b"\xff\xfea\0", "f:1:1: this is UTF-16, save it as UTF-8"),
        (b"\xfe\xff\0a", "f:1:1: this is UTF-16, save it as UTF-8"),
        (
            b"a: !binary x",
            "f:1:12: a: this tag is not supported (a text that begins with ! has to be quoted)",
        ),
        (b"a: !!int 1", "f:1:10: a: this tag is not supported (a text that begins with ! has to be quoted)"),
        (b"a: !x [1]", "f:1:7: a: this tag is not supported (a text that begins with ! has to be quoted)"),
        (b"{[a]: b}", "f:1:2: a list cannot be a key"),
        (b"a: &x [*x]", "f:1:8: a[0]: the alias stands inside what it stands for"),
        (b"a:\n  <<: 1", "f:2:7: a: `<<` takes a mapping or a list of mappings"),
    ] {
        assert_eq!(read(text).1, [expected], "{}", String::from_utf8_lossy(text));
    }
    for text in
        ["a: b: c", "a: [1", "a: \"x", "- a\nb: c", "a: *nowhere", "a: \u{1}", "%YAML 1.2", "a: 'x' y"]
    {
        let (documents, problems) = read(text.as_bytes());
        assert!(documents.is_empty() && problems.len() == 1, "{text}: {problems:?}");
    }
}

#[test]
fn all_duplicates_are_reported() {
    let (_, problems) = read(b"a: 1\na: 2\nb: {c: 1, c: 2}\n");
    assert_eq!(problems, ["f:2:1: a: this key is already at 1:1", "f:3:11: b.c: this key is already at 3:5"]);
}

#[test]
fn a_file_that_would_grow_is_refused_quickly() {
    let bomb = (1..30).fold("a0: &a0 [x, x]\n".to_string(), |text, n| {
        let last = n - 1;
        text + &format!("a{n}: &a{n} [*a{last}, *a{last}, *a{last}]\n")
    });
    let merges = format!("a: &a {{{}}}\nb: [{}]", keys(5000), "{<<: *a}, ".repeat(500));
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), "*a, ".repeat(500));
    for (text, expected) in [
        (bomb, "more than 50000 values"),
        (merges, "more than 50000 values"),
        (long, "more than 50000 values or 4 MiB of text"),
        (format!("a: [{}]", "1,".repeat(60_000)), "more than 50000 values"),
        (format!("a: {}{}", "[".repeat(100), "]".repeat(100)), "nested deeper than 64"),
        (format!("a: {}", "[".repeat(100_000)), "recursion limit"),
        (format!("a: {}1{}", "{b: ".repeat(100), "}".repeat(100)), "nested deeper than 64"),
        ((0..100).map(|n| " ".repeat(n) + "a:\n").collect(), "nested deeper than 64"),
        ("- ".repeat(1000), "nested deeper than 64"),
        ("x".repeat(MAX_BYTES + 1), "1048577 bytes are more than the 1048576 allowed"),
    ] {
        let start = Instant::now();
        let (_, problems) = read(text.as_bytes());
        assert!(problems.len() == 1 && problems[0].contains(expected), "{expected}: {problems:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{expected}: {:?}", start.elapsed());
    }
}

#[test]
fn an_alias_may_not_reach_below_the_depth() {
    let nested = |levels: usize| format!("{}x{}", "[".repeat(levels), "]".repeat(levels));
    let text = format!("a: &a {}\nb: {}", nested(40), nested(40).replace('x', "*a"));
    assert!(read(text.as_bytes()).1[0].contains("nested deeper than 64"));
}

#[test]
fn hostile_texts_of_the_largest_size_take_little_time() {
    for unit in [
        "? ", "- ", "{", "a: ", "&a ", "!a ", "*a ", "#", "\"", "'", "a\n", "|\n", "%", "\n", ",", "[a]: ",
        "--- ",
    ] {
        let text = unit.repeat(MAX_BYTES / unit.len());
        let start = Instant::now();
        read(text.as_bytes());
        assert!(start.elapsed() < Duration::from_secs(10), "{unit:?}: {:?}", start.elapsed());
    }
}

fn keys(count: usize) -> String {
    (0..count).map(|n| format!("k{n}: 1, ")).collect()
}

#[test]
fn mutated_files_never_panic() {
    let text =
        b"a: &x {b: [1, 'two', \"three\\n\"], <<: {c: ~}}\nd: *x\n--- # next\n- |\n  text\n- >-\n  more\n";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for _ in 0..5_000 {
        let mut mutant = text.to_vec();
        for _ in 0..1 + next() % 4 {
            let at = next() % mutant.len();
            match next() % 3 {
                0 => mutant[at] = b"\n\t :-[]{}&*!|>'\"%#,?\xff\0ax<"[next() % 25],
                1 => mutant.insert(at, mutant[next() % mutant.len()]),
                _ => drop(mutant.remove(at)),
            }
        }
        read(&mutant);
    }
}

#[test]
fn reading_goes_on_after_a_problem() {
    let text = b"name: [x]\ncount: many\nflag: yes\nkidn: small\nextra: 1\nitems: [a, {}, ~]\n";
    let source = Source { name: "f".into(), text: text.to_vec() };
    let report = Report::new("f");
    let documents = parse(&source, MAX_BYTES, &report);
    let mut fields = Cursor::root(&documents[0], &report).fields().unwrap();
    assert_eq!(fields.required("name").and_then(|at| at.text()), None);
    assert_eq!(fields.required("count").and_then(|at| at.parse::<u32>()), None);
    assert_eq!(fields.optional("flag").and_then(|at| at.boolean()), None);
    assert_eq!(fields.optional("kind").and_then(|at| at.one_of(&[("small", 1)])), None);
    assert_eq!(fields.required("items").and_then(|at| at.list(Cursor::text)), Some(vec!["a"]));
    assert!(fields.required("missing").is_none());
    fields.finish();
    let problems: Vec<_> = report.finish().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "f:1:1: the key missing is missing",
            "f:1:7: name: expected a string, found a list",
            "f:2:8: count: invalid digit found in string",
            "f:3:7: flag: expected true or false, found a string",
            "f:4:1: kidn: unknown key, expected one of name, count, flag, kind, items, missing; did you mean kind?",
            "f:5:1: extra: unknown key, expected one of name, count, flag, kind, items, missing",
            "f:6:12: items[1]: expected a string, found a mapping",
            "f:6:16: items[2]: expected a string, found nothing",
        ]
    );
}

#[test]
fn a_word_that_is_no_choice_is_named_escaped() {
    let source = Source { name: "f".into(), text: b"\"a\\e[31m\"".to_vec() };
    let report = Report::new("f");
    let documents = parse(&source, MAX_BYTES, &report);
    assert_eq!(Cursor::root(&documents[0], &report).one_of(&[("no", 1), ("yes", 2)]), None);
    assert_eq!(report.finish()[0].to_string(), "f:1:1: expected one of no, yes, found `a\\x1b[31m`");
}

#[test]
fn problems_beyond_a_hundred_are_not_kept() {
    let report = Report::new("f");
    (1..=500).for_each(|line| report.problem((line, 1), "", "wrong"));
    let problems = report.finish();
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].message, "more problems follow, not shown");
}
