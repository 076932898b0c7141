//! The rate of mints over time, as an SVG.

use std::fmt::Write as _;

use crate::report::Report;

const WIDTH: f64 = 860.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 48.0;
const TOP: f64 = 34.0;
/// The top of a panel as a multiple of the mean. Higher rates are cut.
const HIGHEST: f64 = 4.0;

pub fn draw(reports: &[Report]) -> String {
    let height = TOP + reports.len() as f64 * (PANEL + 56.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Mints a minute over time, as multiples of the mean</title>\n\
         <style>svg {{ color: #1f2328 }} .line {{ stroke: #0969da }} .outage {{ fill: #cf222e; opacity: .18 }}\n\
         @media (prefers-color-scheme: dark) {{ svg {{ color: #e6edf3 }} .line {{ stroke: #58a6ff }} .outage {{ fill: #ff7b72; opacity: .25 }} }}\n\
         text {{ fill: currentColor }} .grid {{ stroke: currentColor; opacity: .2 }}</style>\n"
    );
    for (index, report) in reports.iter().enumerate() {
        panel(&mut svg, report, TOP + index as f64 * (PANEL + 56.0));
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, report: &Report, top: f64) {
    let minutes = report.plan.length.as_secs_f64() / 60.0;
    let x = |minute: f64| LEFT + minute / minutes * (WIDTH - LEFT - 12.0);
    let y = |times: f64| top + PANEL * (1.0 - times.min(HIGHEST) / HIGHEST);
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    line(format!(
        "<text x=\"{LEFT}\" y=\"{}\">{}</text>",
        top - 10.0,
        report.plan.name
    ));
    for times in 0..=HIGHEST as u32 {
        let at = y(f64::from(times));
        line(format!(
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{times}x</text>",
            WIDTH - 12.0,
            LEFT - 8.0,
            at + 4.0
        ));
    }
    let hours = (minutes / 60.0) as u32;
    for hour in (0..=hours).step_by(if hours > 12 { 3 } else { 1 }) {
        line(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{hour} h</text>",
            x(f64::from(hour) * 60.0),
            top + PANEL + 18.0
        ));
    }
    if let Some([begin, end]) = report.plan.outage {
        let (begin, end) = (x(begin.as_secs_f64() / 60.0), x(end.as_secs_f64() / 60.0));
        line(format!(
            "<rect class=\"outage\" x=\"{begin:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\"/>",
            end - begin
        ));
    }
    let mut path = String::new();
    for (minute, mints) in report.outcome.mints.iter().enumerate() {
        let step = if minute == 0 { 'M' } else { 'L' };
        let (x, y) = (x(minute as f64 + 0.5), y(f64::from(*mints) / report.mean));
        let _ = write!(path, "{step}{x:.1} {y:.1}");
    }
    line(format!("<path class=\"line\" fill=\"none\" d=\"{path}\"/>"));
}
