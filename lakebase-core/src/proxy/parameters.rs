//! The startup parameters of a session: those of the driver, and ours where it sends none.

use std::collections::BTreeMap;

use crate::target::Target;

/// Returns the parameters for the server. It skips parameters with a value of `ignored`; for `options`, it removes that prefix.
pub(super) fn complete<'a>(
    requested: &'a [(String, String)],
    ignored: &[(String, String)],
    target: &'a Target,
) -> BTreeMap<&'a str, String> {
    let mut parameters = BTreeMap::new();
    let mut options = target.startup_options().unwrap_or_default();
    for (name, value) in requested {
        let mut ignored = ignored.iter().filter(|(known, _)| known == name);
        match name.as_str() {
            "options" => {
                let own = ignored.fold(value.as_str(), |own, (_, prefix)| {
                    own.strip_prefix(prefix.as_str()).unwrap_or(own)
                });
                // The driver's options come last, so they win.
                options = format!("{options} {}", own.trim_start());
            }
            // The built-in pooler rejects it, and it has no effect since Postgres 12.
            "extra_float_digits" if target.is_pooled() => {}
            _ if ignored.any(|(_, known)| known == value) => {}
            name => {
                parameters.insert(name, value.clone());
            }
        }
    }
    let options = options.trim_start();
    if !options.is_empty() {
        parameters.insert("options", options.to_owned());
    }
    let name = parameters.entry("application_name").or_default();
    if name.is_empty() {
        target.application_name().clone_into(name);
    }
    parameters.insert("user", target.user().to_owned());
    parameters.insert("database", target.database().to_owned());
    parameters
}
