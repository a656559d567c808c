//! The machine configuration document and what plywood reads of `machine`:
//! `install.extensions`, `registries`, `env`, `time` and `kernel.modules`. The rest is for
//! Talos and passed over.

use super::draft::{Draft, ExtensionDraft, add, given};
use super::settings::{KernelModule, OnFailure, parse_module_name, parse_module_parameter, parse_path};
use super::{network, plywood, registries};
use crate::limits::MAX_EXTENSIONS;
use crate::oci::registries::PROXY_VARIABLES;
use crate::text::Escaped;
use crate::yaml::{Cursor, Fields};

/// The words of `onFailure`.
pub(super) const ON_FAILURE: &[(&str, OnFailure)] = &[("fail", OnFailure::Fail), ("skip", OnFailure::Skip)];

/// Reads a document without a `kind`: the machine configuration itself.
pub(super) fn read(mut fields: Fields<'_>, draft: &mut Draft) {
    if let Some(version) = fields.required("version") {
        check_version(&version);
    }
    if let Some(machine) = fields.optional("machine").and_then(|at| at.fields()) {
        read_machine(machine, draft);
    }
    if let Some(plywood) = fields.optional("plywood").and_then(|at| at.fields()) {
        plywood::read(plywood, draft);
    }
    for key in ["cluster", "debug", "persist"] {
        if fields.optional(key).is_some() {
            draft.passed_over.push(key.into());
        }
    }
    fields.finish();
}

/// Reads the keys that every document with a `kind` has.
pub(super) fn read_document_header(fields: &mut Fields<'_>) {
    fields.optional("kind");
    if let Some(version) = fields.required("apiVersion") {
        check_version(&version);
    }
}

fn check_version(version: &Cursor<'_>) {
    version.parse_with(|text| match text {
        "v1alpha1" => Ok(()),
        _ => Err(format!("unsupported version `{}`, expected v1alpha1", Escaped::new(text))),
    });
}

fn read_machine(mut fields: Fields<'_>, draft: &mut Draft) {
    if let Some(mut install) = fields.optional("install").and_then(|at| at.fields()) {
        if let Some(extensions) = install.optional("extensions") {
            read_extensions(&extensions, draft);
        }
        draft.passed_over.extend(install.pass_over());
    }
    if let Some(environment) = fields.optional("env") {
        read_environment(&environment, draft);
    }
    if let Some(time) = fields.optional("time").and_then(|at| at.fields()) {
        network::read_time(time, draft);
    }
    if let Some(registries) = fields.optional("registries").and_then(|at| at.fields()) {
        registries::read(registries, draft);
    }
    if let Some(mut kernel) = fields.optional("kernel").and_then(|at| at.fields()) {
        for module in kernel.optional("modules").and_then(|at| at.items()).unwrap_or_default() {
            if let Some(mut fields) = module.fields() {
                read_module(&mut fields, draft);
                fields.finish();
            }
        }
        draft.passed_over.extend(kernel.pass_over());
    }
    draft.passed_over.extend(fields.pass_over());
}

fn read_extensions(at: &Cursor<'_>, draft: &mut Draft) {
    let extensions = at.items().unwrap_or_default();
    let count = draft.extensions.len() + extensions.len();
    if count > MAX_EXTENSIONS {
        return at
            .problem(format!("{count} extensions are more than the {MAX_EXTENSIONS} that a machine takes"));
    }
    extensions.iter().for_each(|extension| read_extension(extension, draft));
}

fn read_extension(at: &Cursor<'_>, draft: &mut Draft) {
    let Some(mut fields) = at.fields() else { return };
    let image_at = fields.required("image");
    let on_failure = fields.optional("onFailure").and_then(|at| at.one_of(ON_FAILURE));
    let overrides = fields.optional("overrides").and_then(|at| at.list(|path| path.parse_with(parse_path)));
    fields.finish();
    let Some(image_at) = image_at else { return };
    let Some(image) = image_at.parse() else { return };
    if let Some(earlier) = draft.extensions.iter().find(|earlier| earlier.value.image == image) {
        return image_at.problem(format!("this image is already at {}", earlier.place));
    }
    let extension = ExtensionDraft { image, on_failure, overrides: overrides.unwrap_or_default() };
    draft.extensions.push(given(&image_at, extension));
}

/// Reads an `EnvironmentConfig`.
pub(super) fn read_environment_document(mut fields: Fields<'_>, draft: &mut Draft) {
    read_document_header(&mut fields);
    if let Some(variables) = fields.required("variables") {
        read_environment(&variables, draft);
    }
    fields.finish();
}

/// Reads the variables that are about proxies. A name counts in lower and in
/// upper case, but only once.
fn read_environment(at: &Cursor<'_>, draft: &mut Draft) {
    for (name, at) in at.entries().unwrap_or_default() {
        let variable = name.to_ascii_lowercase();
        if !PROXY_VARIABLES.contains(&variable.as_str()) {
            draft.passed_over.push(at.path().into());
            continue;
        }
        if let Some(value) = at.text()
            && let Err(error) = draft.proxies.set(&variable, value)
        {
            at.problem(error.to_string());
        }
        add(&mut draft.environment, variable, &at, ());
    }
}

/// Reads a `KernelModuleConfig`.
pub(super) fn read_module_document(mut fields: Fields<'_>, draft: &mut Draft) {
    read_document_header(&mut fields);
    read_module(&mut fields, draft);
    fields.finish();
}

fn read_module(fields: &mut Fields<'_>, draft: &mut Draft) {
    let name_at = fields.required("name");
    let parameters =
        fields.optional("parameters").and_then(|at| at.list(|item| item.parse_with(parse_module_parameter)));
    let Some(name_at) = name_at else { return };
    let Some(name) = name_at.parse_with(parse_module_name) else { return };
    // The kernel takes `-` and `_` in names for the same.
    let same = |other: &str| other.replace('-', "_") == name.replace('-', "_");
    if let Some(earlier) = draft.modules.iter().find(|earlier| same(&earlier.value.name)) {
        return name_at.problem(format!("this module is already at {}", earlier.place));
    }
    draft.modules.push(given(&name_at, KernelModule { name, parameters: parameters.unwrap_or_default() }));
}
