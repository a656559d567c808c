//! `/etc/extensions.yaml`: the merged root's list of its extensions, in the
//! shape that Talos gave it.

use std::fmt::Write;

use crate::layer::manifest::Metadata;

/// The name under which a layer is listed: its number, what it came from, and
/// `.sqsh`. Only a label: the file in the store is named by its key.
pub fn layer_name(number: u16, source: &str) -> String {
    // Beside a tag the digest would only make the name longer than anyone reads.
    let has_tag = |name: &str| name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let text = match source.split_once('@') {
        Some((name, _)) if has_tag(name) => name,
        _ => source,
    };
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    format!("{number:03}.{}.sqsh", text.chars().map(safe).collect::<String>())
}

/// Renders the file: the layers in mount order, lowest first.
pub fn render<'a>(layers: impl IntoIterator<Item = (String, &'a Metadata)>) -> String {
    let mut text = String::new();
    for (image, metadata) in layers {
        // Writing to a String cannot fail.
        let _ = write_layer(&mut text, &image, metadata);
    }
    if text.is_empty() { "layers: []\n".into() } else { format!("layers:\n{text}") }
}

fn write_layer(text: &mut String, image: &str, metadata: &Metadata) -> std::fmt::Result {
    writeln!(text, "  - image: {}", scalar(image))?;
    writeln!(text, "    metadata:")?;
    for (key, value) in [
        ("name", &metadata.name),
        ("version", &metadata.version),
        ("author", &metadata.author),
        ("description", &metadata.description),
    ] {
        writeln!(text, "      {key}: {}", scalar(value))?;
    }
    if metadata.compatibility.is_empty() {
        writeln!(text, "      compatibility: {{}}")?;
    } else {
        writeln!(text, "      compatibility:")?;
    }
    for (host, requirement) in &metadata.compatibility {
        writeln!(text, "        {}:", scalar(host))?;
        writeln!(text, "          version: {}", scalar(&requirement.version))?;
    }
    if !metadata.extra_info.is_empty() {
        writeln!(text, "      extraInfo: {}", scalar(&metadata.extra_info))?;
    }
    Ok(())
}

/// A string as YAML: plain where no reader can take it for anything else,
/// else quoted as in JSON, which is YAML too.
fn scalar(value: &str) -> String {
    let lower = value.to_ascii_lowercase();
    let is_word = value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'));
    let is_number = value.parse::<f64>().is_ok() || lower.starts_with("0x") || lower.starts_with("0o");
    let is_keyword =
        matches!(lower.as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    // YAML 1.1 readers take 2026-01-01 for a date.
    let is_date = value.starts_with(|c: char| c.is_ascii_digit()) && !value.contains(char::is_alphabetic);
    if is_word && !is_number && !is_keyword && !is_date {
        value.into()
    } else {
        serde_json::Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_by_number_and_source() {
        let pinned = format!("ghcr.io/a/tools:v1@sha256:{}", "ab".repeat(32));
        for (number, source, name) in [
            (0, "ghcr.io/smira/gvisor:c927b54-dirty", "000.ghcr.io-smira-gvisor-c927b54-dirty.sqsh"),
            (11, &pinned, "011.ghcr.io-a-tools-v1.sqsh"),
            (7, "10.0.2.2:5000/tools", "007.10.0.2.2-5000-tools.sqsh"),
            (1, "oci:/boot/extensions/tools", "001.oci--boot-extensions-tools.sqsh"),
        ] {
            assert_eq!(layer_name(number, source), name);
        }
    }

    #[test]
    fn strings_stay_strings() {
        for (value, yaml) in [
            ("gvisor", "gvisor"),
            ("000.tools.sqsh", "000.tools.sqsh"),
            ("v1.0.0", "v1.0.0"),
            ("1.10", "\"1.10\""),
            ("20260101.0", "\"20260101.0\""),
            ("2026-01-01", "\"2026-01-01\""),
            ("no", "\"no\""),
            ("0x10", "\"0x10\""),
            (">= v1.0.0", "\">= v1.0.0\""),
            ("a: b\n", "\"a: b\\n\""),
            ("", "\"\""),
        ] {
            assert_eq!(scalar(value), yaml);
        }
    }
}
