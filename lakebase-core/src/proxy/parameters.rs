//! The startup parameters of a session: what the driver asks for, and ours where it asks for nothing.

use std::collections::BTreeMap;

use crate::target::Target;

/// Parameters for the server. A value of `ignored` counts as not asked for; of `options`, as their beginning.
pub(super) fn complete<'a>(
    asked: &'a [(String, String)],
    ignored: &[(String, String)],
    target: &'a Target,
) -> BTreeMap<&'a str, String> {
    let mut parameters = BTreeMap::new();
    let mut options = target.startup_options().unwrap_or_default();
    for (name, value) in asked {
        let mut ignored = ignored.iter().filter(|(known, _)| known == name);
        match name.as_str() {
            "options" => {
                let own = ignored.fold(value.as_str(), |own, (_, beginning)| {
                    own.strip_prefix(beginning.as_str()).unwrap_or(own)
                });
                // The driver's come last and win.
                options = format!("{options} {}", own.trim_start());
            }
            // The built-in pooler rejects it, and since Postgres 12 it changes nothing.
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
