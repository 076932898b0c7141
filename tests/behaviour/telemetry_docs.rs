//! `docs/telemetry.md` lists every span, event and instrument, and the dashboard queries nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use lakebase_examples::documented::{self, Instrument};
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Returns the sources of the libraries with single spaces, so that their formatting does not matter.
fn sources() -> Vec<String> {
    let mut sources = Vec::new();
    for library in ["lakebase-core", "lakebase-diesel", "lakebase-seaorm"] {
        collect(&Path::new(ROOT).join(library).join("src"), &mut sources);
    }
    assert!(sources.len() > 50, "{} files", sources.len());
    sources
}

fn collect(folder: &Path, sources: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            sources.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
}

/// Returns the string literal at the start of `text`.
fn literal(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix('"')?.split('"').next()
}

/// `name: "lakebase...` with the macro before it: names and levels.
fn events(source: &str) -> impl Iterator<Item = (String, String)> {
    let before_and_after = source.match_indices("name: \"lakebase.");
    before_and_after.map(|(at, _)| {
        let (before, after) = source.split_at(at);
        let level = before.trim_end().strip_suffix("!(").expect("a macro");
        let level = level.rsplit(|c: char| !c.is_alphanumeric()).next();
        let name = literal(&after["name: ".len()..]).expect("a name");
        assert_target(name, after);
        (name.to_owned(), level.expect("a level").to_uppercase())
    })
}

/// `info_span!(target: .., "lakebase...`: names and levels.
fn spans(source: &str) -> impl Iterator<Item = (String, String)> {
    source.match_indices("_span!(").map(|(at, _)| {
        let (before, after) = source.split_at(at);
        let level = before.rsplit(|c: char| !c.is_alphanumeric()).next();
        let start = after.find("\"lakebase.").expect("a name");
        let name = literal(&after[start..]).expect("a name");
        assert_target(name, after);
        (name.to_owned(), level.expect("a level").to_uppercase())
    })
}

/// The target follows from the name, so the page has no column for it.
fn assert_target(name: &str, after: &str) {
    let (_, target) = after.split_once("target: ").expect("a target");
    let word = name.split('.').nth(1).expect("two words");
    match literal(target) {
        Some(target) => assert_eq!(target, format!("lakebase::{word}"), "{name}"),
        None => assert!(target.starts_with("TARGET,"), "{name}"),
    }
}

/// Returns the names of instruments.
fn instruments(source: &str) -> impl Iterator<Item = String> {
    let calls = ["counter(", "gauge(", "level(", "histogram("];
    let after = calls
        .into_iter()
        .flat_map(|call| source.split(call).skip(1));
    after.filter_map(literal).map(str::to_owned)
}

#[test]
fn every_event_and_span_is_documented_with_its_level() {
    let sources = sources();
    let found: BTreeSet<_> = sources.iter().flat_map(|source| events(source)).collect();
    let listed = documented::events().into_iter();
    let listed = listed.map(|event| (event.name.to_owned(), event.level.to_owned()));
    assert_eq!(found, listed.collect());

    let found: BTreeSet<_> = sources.iter().flat_map(|source| spans(source)).collect();
    let listed = documented::spans().into_iter();
    let listed = listed.map(|span| (span.name.to_owned(), span.level.to_owned()));
    assert_eq!(found, listed.collect());
}

#[test]
fn every_instrument_is_documented_with_its_prometheus_name() {
    let sources = sources();
    let found: BTreeSet<_> = sources
        .iter()
        .flat_map(|source| instruments(source))
        .collect();
    let listed = documented::instruments();
    let names = listed.iter().map(|instrument| instrument.name.to_owned());
    assert_eq!(found, names.collect());
    for instrument in &listed {
        assert_eq!(instrument.prometheus, prometheus_name(instrument));
    }
}

/// Returns the name according to OpenTelemetry's specification of Prometheus compatibility.
fn prometheus_name(instrument: &Instrument) -> String {
    let unit = match instrument.unit {
        "s" => "_seconds",
        "ms" => "_milliseconds",
        _ => "",
    };
    let end = match instrument.kind {
        "counter" => "_total",
        _ => "",
    };
    instrument.name.replace('.', "_") + unit + end
}

#[test]
fn the_documented_set_up_is_part_of_the_example() {
    let read = |file| {
        let path = Path::new(ROOT)
            .join("examples/src/bin/telemetry")
            .join(file);
        fs::read_to_string(path).expect("text")
    };
    // Without spaces and commas, which rustfmt adds.
    let bare = |text: &str| text.replace(|c: char| c.is_whitespace() || c == ',', "");
    let example = bare(&(read("export.rs") + &read("pools.rs")));
    let blocks = documented::PAGE.split("```rust,ignore\n").skip(1);
    let blocks: Vec<_> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for paragraph in blocks.iter().flat_map(|block| block.split("\n\n")) {
        let code = paragraph.lines().filter(|line| !line.starts_with("//"));
        let code = bare(&code.collect::<String>()).replace("orders", "deadpool");
        assert!(example.contains(&code), "{paragraph}");
    }
}

#[test]
fn the_dashboard_queries_only_documented_metrics_and_shows_all_of_these_crates() {
    let text = include_str!("../../docs/grafana/lakebase.json");
    let dashboard: Value = serde_json::from_str(text).expect("JSON");
    let instruments = documented::instruments();
    let metrics: BTreeMap<_, _> = instruments
        .iter()
        .map(|instrument| (instrument.prometheus, instrument))
        .collect();
    let attributes = instruments
        .iter()
        .flat_map(|instrument| &instrument.attributes);
    let mut labels: BTreeSet<_> = attributes.map(|name| name.replace('.', "_")).collect();
    labels.insert("db_client_connection_pool_name".to_owned());

    let mut expressions = Vec::new();
    strings(&dashboard, &mut expressions);
    let mut shown = BTreeSet::new();
    for expression in &expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let is_ours = |word: &&str| word.starts_with("lakebase_") || word.starts_with("db_");
        for word in words.filter(is_ours) {
            let parts = ["_bucket", "_count", "_sum"];
            let whole = parts.iter().find_map(|part| word.strip_suffix(part));
            let whole = whole.filter(|name| {
                metrics
                    .get(name)
                    .is_some_and(|metric| metric.kind == "histogram")
            });
            let name = whole.unwrap_or(word);
            let is_metric = metrics
                .get(name)
                .is_some_and(|metric| (metric.kind == "histogram") == whole.is_some());
            assert!(is_metric || labels.contains(word), "{word} in {expression}");
            shown.extend(metrics.get(name).map(|metric| metric.name));
        }
    }
    let ours = instruments.iter().map(|instrument| instrument.name);
    let of_node = "lakebase.pool.";
    let ours: BTreeSet<_> = ours.filter(|name| !name.starts_with(of_node)).collect();
    assert_eq!(shown, ours);

    let rows = dashboard["panels"].as_array().expect("panels");
    let rows = rows.iter().filter(|panel| panel["type"] == "row");
    let titles: Vec<_> = rows.filter_map(|row| row["title"].as_str()).collect();
    assert_eq!(titles, ["Tokens", "Logins", "Pools", "Queries", "Proxy"]);
}

/// The expressions of panels and variables.
fn strings<'a>(value: &'a Value, expressions: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("expr" | "definition" | "query", Value::String(text)) => {
                        expressions.push(text)
                    }
                    _ => strings(value, expressions),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, expressions)),
        _ => {}
    }
}
