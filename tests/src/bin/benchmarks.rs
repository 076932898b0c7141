//! Puts the figures of `cargo bench -p lakebase-tests --bench speed` into `BENCHMARKS.md` and draws them in `docs/pictures/`.
//!
//! `cargo run -p lakebase-tests --bin benchmarks`. It replaces the text between the markers of each table.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

/// Lengths of a picture in its units.
const WIDTH: f64 = 720.0;
const LABELS: f64 = 250.0;
const FIGURES: f64 = 90.0;
const BAR: f64 = 16.0;
const GAP: f64 = 12.0;
const COLOURS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = root.ok_or("no workspace")?;
    let tables = std::fs::read(root.join("tests/benches/speed.json"))?;
    let tables: Vec<Value> = serde_json::from_slice(&tables)?;
    let page = root.join("BENCHMARKS.md");
    let mut text = std::fs::read_to_string(&page)?;
    let pictures = root.join("docs/pictures");
    std::fs::create_dir_all(&pictures)?;
    for table in &tables {
        let name = word(&table["name"]);
        text = replace(&text, name, &markdown(table))?;
        // Not for a single column or for columns with different units.
        if list(&table["columns"]).len() > 1 && name != "build" && name != "herd" {
            std::fs::write(pictures.join(format!("{name}.svg")), picture(table))?;
        }
    }
    std::fs::write(page, text)?;
    Ok(())
}

fn replace(text: &str, name: &str, table: &str) -> Result<String, String> {
    let [begin, end] = [format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n")];
    let missing = || format!("BENCHMARKS.md has no markers for {name}");
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// Formats three significant digits.
fn digits(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{figure:.3}"),
        size if size < 10.0 => format!("{figure:.2}"),
        size if size < 100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

/// Formats the median, and the range from 10 % to 90 % of the figures.
fn cell(value: &Value) -> String {
    let [median, low, high] = ["median", "p10", "p90"].map(|name| digits(number(&value[name])));
    match number(&value["count"]) {
        0.0 => String::new(),
        1.0 => median,
        _ => format!("{median} ({low} to {high})"),
    }
}

fn markdown(table: &Value) -> String {
    let columns: Vec<&str> = list(&table["columns"]).iter().map(word).collect();
    let unit = word(&table["unit"]);
    let mut text = format!(
        "| {unit} | {} |\n|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    for row in list(&table["rows"]) {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| cell(&row["cells"][column]))
            .collect();
        let _ = writeln!(text, "| {} | {} |", word(&row["name"]), cells.join(" | "));
    }
    let quotients = list(&table["quotients"]);
    if !quotients.is_empty() {
        text.push_str("\n| | measured | goal |\n|---|---|---|\n");
    }
    for quotient in quotients {
        let goal = match quotient["goal"].as_f64() {
            Some(goal) => format!("at most {goal}"),
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {goal} |",
            word(&quotient["name"]),
            cell(quotient)
        );
    }
    text
}

/// Draws bars with the range from 10 % to 90 %. Each row has its own scale, because only its columns are compared.
fn picture(table: &Value) -> String {
    let columns = list(&table["columns"]);
    let rows = list(&table["rows"]);
    let mut bars = String::new();
    let mut y = GAP;
    for (index, column) in columns.iter().enumerate() {
        let _ = writeln!(
            bars,
            "<rect class=\"c{}\" x=\"{GAP}\" y=\"{y}\" width=\"{BAR}\" height=\"{BAR}\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            index % COLOURS,
            GAP + BAR + 6.0,
            y + BAR - 4.0,
            escaped(word(column)),
        );
        y += BAR + 4.0;
    }
    for row in rows {
        y += GAP;
        let highs = columns
            .iter()
            .map(|column| number(&row["cells"][word(column)]["p90"]));
        let scale = (WIDTH - LABELS - FIGURES) / highs.fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(
            bars,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LABELS - 8.0,
            y + BAR - 4.0,
            escaped(word(&row["name"])),
        );
        for (index, column) in columns.iter().enumerate() {
            let cell = &row["cells"][word(column)];
            if cell.is_null() {
                continue;
            }
            let [median, low, high] = ["median", "p10", "p90"].map(|name| number(&cell[name]));
            let _ = writeln!(
                bars,
                "<rect class=\"c{}\" x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\"/>\
                 <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                index % COLOURS,
                median * scale,
                BAR - 2.0,
                LABELS + low * scale,
                LABELS + high * scale,
                LABELS + high.max(median) * scale + 6.0,
                y + BAR - 4.0,
                digits(median),
                middle = y + BAR / 2.0 - 1.0,
            );
            y += BAR;
        }
    }
    let height = y + GAP;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{}, {}; each row has its own scale</title>\n<style>\n\
         text {{ font: 12px sans-serif; fill: #1f2328 }}\n\
         line {{ stroke: #1f2328; stroke-width: 1.5 }}\n\
         .c0 {{ fill: #1a7f6b }} .c1 {{ fill: #8c959f }} .c2 {{ fill: #b5651d }} .c3 {{ fill: #6f5fb5 }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #e6edf3 }} line {{ stroke: #e6edf3 }}\n\
         .c0 {{ fill: #3fb8a0 }} .c1 {{ fill: #6e7681 }} .c2 {{ fill: #d98c4a }} .c3 {{ fill: #a397e0 }}\n\
         }}\n</style>\n{bars}</svg>\n",
        escaped(word(&table["name"])),
        escaped(word(&table["unit"])),
    )
}

/// Without the code marks of Markdown.
fn escaped(text: &str) -> String {
    text.replace('`', "")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
}
