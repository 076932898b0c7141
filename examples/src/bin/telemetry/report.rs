//! Compares the received metrics and spans with `docs/telemetry.md`, and prints them.

use std::collections::{BTreeMap, BTreeSet};

use lakebase_examples::documented;

use super::collector::{Instrument, Reading, Received};

const POOL: &str = "db.client.connection.pool.name";

/// Attributes that are not printed, because they have one value in this program.
const SAME: [&str; 5] = [
    POOL,
    "db.namespace",
    "db.system.name",
    "server.address",
    "server.port",
];

/// Returns the differences between the received and the documented instruments and spans.
pub(crate) fn differences(received: &Received) -> Vec<String> {
    let mut differences = Vec::new();
    let instruments = documented::instruments();
    for documented in &instruments {
        let name = documented.name;
        let Some(found) = received.instruments.get(name) else {
            differences.push(format!("the instrument {name} is missing"));
            continue;
        };
        let mut expected = BTreeSet::from_iter(documented.attributes.iter().copied());
        expected.insert(POOL);
        let keys = found.series.keys().flat_map(|attributes| attributes.keys());
        let keys = BTreeSet::from_iter(keys.map(String::as_str));
        if keys != expected {
            differences.push(format!(
                "{name} has {keys:?}, not {expected:?} as documented"
            ));
        }
        let (kind, unit) = (found.kind, found.unit.as_str());
        if (kind, unit) != (documented.kind, documented.unit) {
            differences.push(format!("{name} is a {kind} in {unit:?}"));
        }
    }
    for name in received.instruments.keys() {
        if instruments.iter().all(|documented| documented.name != name) {
            differences.push(format!("the instrument {name} is not documented"));
        }
    }
    differences.extend(differences_of_spans(received));
    differences
}

fn differences_of_spans(received: &Received) -> Vec<String> {
    let mut differences = Vec::new();
    let documented = documented::spans();
    let names: BTreeMap<_, _> = received
        .spans
        .iter()
        .map(|span| (span.id.as_slice(), span.name.as_str()))
        .collect();
    for expected in &documented {
        let name = expected.name;
        let found = received.spans.iter().filter(|span| span.name == name);
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            differences.push(format!("the span {name} is missing"));
            continue;
        }
        let keys = found.iter().flat_map(|span| &span.attributes);
        let keys = BTreeSet::from_iter(keys.map(String::as_str));
        let fields = BTreeSet::from_iter(expected.fields.iter().copied());
        // No migration fails here.
        let missing = fields.difference(&keys);
        let missing: Vec<_> = missing.filter(|field| **field != "error.type").collect();
        let unknown: Vec<_> = keys.difference(&fields).collect();
        if !missing.is_empty() || !unknown.is_empty() {
            differences.push(format!("{name} lacks {missing:?} and has {unknown:?}"));
        }
        for span in found {
            let parent = names.get(span.parent.as_slice()).copied();
            let is_right = match expected.parent {
                Some(_) => parent == expected.parent,
                None => expected.has_parent || span.parent.is_empty(),
            };
            if !is_right {
                differences.push(format!("{name} is a child of {parent:?}"));
                break;
            }
        }
    }
    let unknown = received.spans.iter().map(|span| span.name.as_str());
    let unknown = unknown.filter(|name| documented.iter().all(|span| span.name != *name));
    for name in BTreeSet::from_iter(unknown) {
        differences.push(format!("the span {name} is not documented"));
    }
    differences
}

/// Prints a column for each pool.
pub(crate) fn print(received: &Received) {
    let all = received.instruments.values();
    let pools = all.flat_map(|instrument| instrument.series.keys());
    let pools: BTreeSet<_> = pools
        .filter_map(|attributes| attributes.get(POOL))
        .collect();
    print!("\n{:<66}", "INSTRUMENT");
    for pool in &pools {
        print!("{pool:>16}");
    }
    println!();
    for documented in documented::instruments() {
        if let Some(instrument) = received.instruments.get(documented.name) {
            for (label, values) in rows(instrument) {
                print!("{:<66}", format!("{} {label}", documented.name));
                for pool in &pools {
                    let value = values
                        .get(pool.as_str())
                        .map(|value| text(*value, &instrument.unit));
                    print!("{:>16}", value.unwrap_or_default());
                }
                println!();
            }
        }
    }
    println!("\n{:<66}{:>16}{:>16}", "SPAN", "count", "mean");
    for documented in documented::spans() {
        let found = received.spans.iter();
        let found = found.filter(|span| span.name == documented.name);
        let nanos: Vec<_> = found.map(|span| span.nanos).collect();
        let mean = nanos.iter().sum::<u64>() as f64 / nanos.len().max(1) as f64 / 1e6;
        let (name, count) = (documented.name, nanos.len());
        println!("{name:<66}{count:>16}{:>16}", format!("{mean:.1} ms"));
    }
}

/// Values by pool, for each combination of the other attributes.
fn rows(instrument: &Instrument) -> BTreeMap<String, BTreeMap<&str, Reading>> {
    let mut rows = BTreeMap::<_, BTreeMap<_, _>>::new();
    for (attributes, value) in &instrument.series {
        let others = attributes.iter();
        let others = others.filter(|(key, _)| !SAME.contains(&key.as_str()));
        let others: Vec<_> = others.map(|(_, value)| value.as_str()).collect();
        let pool = attributes.get(POOL).map_or("", String::as_str);
        rows.entry(others.join(" "))
            .or_default()
            .insert(pool, *value);
    }
    rows
}

fn text(value: Reading, unit: &str) -> String {
    match value {
        Reading::Number(value) if unit == "s" => format!("{value} s"),
        Reading::Number(value) => value.to_string(),
        Reading::Histogram { count, sum } => {
            let to_millis = if unit == "s" { 1000.0 } else { 1.0 };
            format!("{count} x {:.1} ms", sum * to_millis / count.max(1) as f64)
        }
    }
}
