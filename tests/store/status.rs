//! What `status` and `list` say.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::Home;

#[test]
fn where_there_is_no_store_there_is_no_generation() {
    type Place = fn(&Home);
    let places: [(&str, Place); 3] = [
        ("nothing", |_| {}),
        ("an empty directory", |home| fs::create_dir(home.path("state")).unwrap()),
        ("an empty store", |home| drop(plywood::store::Store::open(&home.path("state")).unwrap())),
    ];
    for (name, place) in places {
        let home = Home::new();
        place(&home);
        let before = home.content();
        assert!(home.expect(0, &["status"]).contains("no generation"), "{name}");
        let status = home.status();
        for key in ["next", "current", "lastGood"] {
            assert!(status[key].is_null(), "{name}: {key}");
        }
        assert_eq!(status["generations"], json!([]), "{name}");
        assert_eq!(home.content(), before, "{name}");
    }
    let home = Home::new();
    fs::write(home.path("state"), "").unwrap();
    assert!(home.expect(1, &["status"]).contains("cannot read"), "a file is no store");
}

#[test]
fn a_machine_that_plywood_did_not_boot_lists_no_generation() {
    let list = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_plywood")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert!(list(&["list"]).starts_with(b"no generation"));
    let json: Value = serde_json::from_slice(&list(&["list", "--json"])).unwrap();
    assert_eq!((&json["generation"], &json["extensions"]), (&Value::Null, &json!([])));
}

/// Where `value` is not as `schema` says, by the keywords that the schema has.
/// What the schema does not name is wrong, too.
fn misfits(value: &Value, schema: &Value, root: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (keyword, wanted) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$ref" => {
                let target = root.pointer(&wanted.as_str().unwrap()[1..]).unwrap();
                found.extend(misfits(value, target, root, path));
            }
            "anyOf" => {
                let fits = |schema: &Value| misfits(value, schema, root, path).is_empty();
                if !wanted.as_array().unwrap().iter().any(fits) {
                    found.push(format!("{path} fits none of {wanted}"));
                }
            }
            "type" => {
                let types: Vec<_> = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                if !types.iter().any(|name| name == type_of(value)) {
                    found.push(format!("{path} is not {wanted}"));
                }
            }
            "enum" if !wanted.as_array().unwrap().contains(value) => found.push(format!("{path} is {value}")),
            "minimum" if value.as_i64() < wanted.as_i64() => found.push(format!("{path} is {value}")),
            "required" => {
                let missing = wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|key| value.get(key.as_str().unwrap()).is_none());
                found.extend(missing.map(|key| format!("{path} has no {key}")));
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    match wanted.get(key) {
                        Some(schema) => found.extend(misfits(value, schema, root, &format!("{path}.{key}"))),
                        None => found.push(format!("{path}.{key} is not in the schema")),
                    }
                }
            }
            "items" => {
                for value in value.as_array().into_iter().flatten() {
                    found.extend(misfits(value, wanted, root, &format!("{path}[]")));
                }
            }
            "enum" | "minimum" | "$schema" | "$defs" | "title" => {}
            other => panic!("{path}: the keyword {other} is not known here"),
        }
    }
    found
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What a boot might leave.
fn report() -> Value {
    let digest = plywood::oci::Digest::sha256(b"");
    json!({
        "generation": 1,
        "trial": {"attempt": 1, "of": 3, "timeLimit": 600, "watchdog": 30},
        "extensions": [{
            "number": 0, "layer": "000.a.sqsh", "name": "a", "version": "1", "size": 4096,
            "digest": digest, "source": "dir:a", "image": digest,
        }],
        "skipped": [{"source": "dir:b", "reason": "it is not there"}],
        "failures": ["generation 2: it is damaged"],
    })
}

/// The JSON of `status` is what its schema says, and nothing else.
#[test]
fn status_is_as_its_schema_says() {
    let home = Home::with_three();
    home.apply(0, &["a"]);
    let store = plywood::store::Store::open(&home.path("state")).unwrap();
    store.put_last_boot(&store.lock().unwrap(), &report()).unwrap();
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.schema.json");
    let schema: Value = serde_json::from_slice(&fs::read(schema).unwrap()).unwrap();
    let status = home.status();
    assert_eq!(status["boot"], report());
    assert_eq!(misfits(&status, &schema, &schema, "status"), Vec::<String>::new());
    let changes: [(&str, Value, &str); 5] = [
        ("/next", json!("1"), "status.next is not"),
        ("/generations/0/state", json!("fine"), "status.generations[].state is \"fine\""),
        ("/generations/0/layers/0", json!({}), "status.generations[].layers[] has no \"number\""),
        ("/generations/0/size", json!(-1), "status.generations[].size is -1"),
        ("/boot/trial", json!({"attempt": 1, "of": 3, "more": 0}), "status.boot fits none of"),
    ];
    for (place, value, expected) in changes {
        let mut wrong = status.clone();
        *wrong.pointer_mut(place).unwrap() = value;
        let found = misfits(&wrong, &schema, &schema, "status");
        assert!(found.iter().any(|misfit| misfit.starts_with(expected)), "{place}: {found:?}");
    }
}
