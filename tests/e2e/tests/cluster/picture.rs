//! A dashboard's panels as a picture. It shows that each has something to show
//! and what it looks like over time; how Grafana would draw it, it does not.

use std::fmt::Write;

use crate::prometheus::{Panel, Series};

/// Pixels of a column, of a row, and between panels.
const COLUMN: f64 = 50.0;
const ROW: f64 = 36.0;
const GAP: f64 = 6.0;
/// Room for what is written above and below the lines.
const HEAD: f64 = 34.0;
const FOOT: f64 = 6.0;
/// Series that are named.
const NAMED: usize = 6;
const COLOURS: [&str; 6] = [
    "#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#b8860b",
];

/// Text as XML has it.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.chars().take(60).filter(|c| !c.is_control()).collect()
}

/// A number, short.
fn short(number: f64, unit: &str) -> String {
    let steps = match unit {
        "bytes" => [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")],
        _ => [(1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")],
    };
    let fits = |(step, _): &(i32, &str)| number.abs() >= f64::from(*step);
    match steps.into_iter().find(fits) {
        Some((step, letter)) => format!("{:.1}{letter}", number / f64::from(step)),
        None if number.abs() < 0.01 && number != 0.0 => format!("{number:.1e}"),
        None => format!("{number:.2}"),
    }
}

/// The picture, SVG.
pub(crate) fn draw(title: &str, panels: &[Panel]) -> String {
    let ends = panels.iter().map(|panel| panel.place[1] + panel.place[3]);
    let rows = ends.fold(0.0, f64::max);
    let (width, height) = (24.0 * COLUMN, rows * ROW + 2.0 * HEAD);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f4f5f5\"/>\n\
         <text x=\"{GAP}\" y=\"20\" font-size=\"15\">{} (data of Prometheus, not drawn by \
         Grafana)</text>\n",
        escaped(title)
    );
    for panel in panels {
        draw_panel(&mut svg, panel);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel) {
    let [x, y, width, height] = panel.place;
    let (x, y) = (x * COLUMN + GAP / 2.0, y * ROW + HEAD);
    let (width, height) = (width * COLUMN - GAP, height * ROW - GAP);
    let all: Vec<&Series> = panel.shown.iter().flatten().collect();
    let points = || all.iter().flat_map(|series| &series.points);
    let most = points().map(|point| point.1).fold(f64::MIN, f64::max);
    let top = if most > 0.0 { most } else { 1.0 };
    let from = points().map(|point| point.0).fold(f64::MAX, f64::min);
    let to = points().map(|point| point.0).fold(f64::MIN, f64::max);
    let _ = write!(
        svg,
        "<g transform=\"translate({x:.0} {y:.0})\">\n<rect width=\"{width:.0}\" \
         height=\"{height:.0}\" fill=\"#fff\" stroke=\"#ccc\"/>\n<text x=\"6\" y=\"14\" \
         font-weight=\"bold\">{}</text>\n<text x=\"6\" y=\"28\" fill=\"#666\">at most {}</text>\n",
        escaped(&panel.title),
        short(most, &panel.unit)
    );
    let high = height - HEAD - FOOT;
    for (number, series) in all.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mut line = String::new();
        for (at, value) in &series.points {
            let right = 6.0 + (at - from) / (to - from).max(1.0) * (width - 12.0);
            let down = HEAD + high - value.max(0.0) / top * high;
            let _ = write!(line, "{right:.1},{down:.1} ");
            // So that a point alone is seen.
            let _ = write!(line, "{:.1},{down:.1} ", right + 0.1);
        }
        let _ = writeln!(
            svg,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" \
             stroke-linecap=\"round\"/>"
        );
        if number < NAMED {
            let down = 14.0 + 13.0 * number as f64;
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{down:.0}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
                width - 6.0,
                escaped(&series.name)
            );
        }
    }
    svg.push_str("</g>\n");
}
