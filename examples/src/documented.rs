//! The tables of `docs/telemetry.md`, which programs and tests compare with what they find.

/// The text of the page.
pub const PAGE: &str = include_str!("../../docs/telemetry.md");

/// A span.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: &'static str,
    pub level: &'static str,
    /// The name of the parent, if it is one of these spans.
    pub parent: Option<&'static str>,
    pub has_parent: bool,
    pub fields: Vec<&'static str>,
}

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: &'static str,
    pub level: &'static str,
}

/// An instrument of OpenTelemetry.
#[derive(Clone, Debug)]
pub struct Instrument {
    pub name: &'static str,
    pub prometheus: &'static str,
    pub kind: &'static str,
    pub unit: &'static str,
    /// Besides the name of the pool.
    pub attributes: Vec<&'static str>,
}

pub fn spans() -> Vec<Span> {
    rows("Spans")
        .into_iter()
        .map(|cells| Span {
            name: only(cells[0]),
            level: cells[1],
            parent: quoted(cells[2]).first().copied(),
            has_parent: cells[2] != "none",
            fields: quoted(cells[3]),
        })
        .collect()
}

pub fn events() -> Vec<Event> {
    rows("Events")
        .into_iter()
        .map(|cells| Event {
            name: only(cells[0]),
            level: cells[1],
        })
        .collect()
}

/// Those of the Node driver come last.
pub fn instruments() -> Vec<Instrument> {
    ["Instruments", "Names of the Node driver"]
        .into_iter()
        .flat_map(rows)
        .map(|cells| Instrument {
            name: only(cells[0]),
            prometheus: only(cells[1]),
            kind: cells[2],
            unit: quoted(cells[3]).first().copied().unwrap_or_default(),
            attributes: quoted(cells[4]),
        })
        .collect()
}

/// Returns the cells of a section's table, without its head.
fn rows(section: &str) -> Vec<Vec<&'static str>> {
    let heading = format!("\n## {section}\n");
    let (_, rest) = PAGE.split_once(&heading).expect("a section");
    let section = rest.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(str::trim).collect()
    })
    .collect()
}

/// Returns the texts between backticks.
fn quoted(cell: &'static str) -> Vec<&'static str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn only(cell: &'static str) -> &'static str {
    cell.trim_matches('`')
}
