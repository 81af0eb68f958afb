//! One picture of a benchmark: a bar per contender, its median in seconds, a line from its fastest run to its slowest.

use std::fmt::Write as _;

use super::rounds::Series;

const WIDTH: f64 = 900.0;
const LABELS: f64 = 380.0;
const FIGURES: f64 = 90.0;
const ROW: f64 = 26.0;
const MARGIN: f64 = 12.0;

/// The series as an SVG document. A run that was far slower than all medians ends at the edge.
pub(super) fn svg(title: &str, series: &[Series]) -> String {
    let series: Vec<_> = series.iter().filter(|series| series.failure.is_none()).collect();
    let longest =
        series.iter().map(|series| series.median_seconds()).fold(f64::MIN_POSITIVE, f64::max);
    let room = WIDTH - LABELS - FIGURES - MARGIN;
    let x = |seconds: f64| LABELS + room * (seconds / longest).min(1.0);
    let height = MARGIN + ROW * (1.5 + f64::from(u32::try_from(series.len()).unwrap_or(u32::MAX)));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (series, y) in series.iter().zip((0..).map(|row| MARGIN + ROW * (f64::from(row) + 1.0))) {
        let (low, high) = series.range();
        let median = series.median_seconds();
        // Names may begin with where the bytes come from.
        let what = series.name.split_once(": ").map_or(&*series.name, |(_, what)| what);
        let color = if what.starts_with("tz-cli") {
            "#2f6f9f"
        } else if ["raw", "plain", "pinned"].iter().any(|baseline| what.starts_with(baseline)) {
            "#9a9a9a"
        } else {
            "#d9a441"
        };
        let (middle, text) = (y + ROW / 2.0, y + ROW / 2.0 + 4.5);
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{color}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" \
             stroke=\"#222222\" stroke-width=\"1.5\"/>\n\
             <text x=\"{:.1}\" y=\"{text:.1}\">{median:.3} s</text>\n",
            LABELS - 8.0,
            escaped(&series.name),
            y + 4.0,
            x(median) - LABELS,
            ROW - 8.0,
            x(low),
            x(high),
            x(median.max(high)) + 8.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::rounds::Sample;
    use super::*;

    #[test]
    fn bars_are_as_long_as_the_medians_and_names_are_text() {
        let series = |name: &str, seconds: &[f64]| Series {
            name: name.to_owned(),
            samples: seconds
                .iter()
                .map(|&seconds| Sample { seconds, process_seconds: seconds, peak_bytes: 0 })
                .collect(),
            failure: None,
        };
        let slow = series("a <b> & c", &[4.0, 4.0, 40.0]);
        let svg = svg("seconds", &[slow, series("tz-cli", &[1.0, 1.0, 1.0])]);
        let room = WIDTH - LABELS - FIGURES - MARGIN;
        assert!(svg.contains("a &lt;b&gt; &amp; c"), "{svg}");
        assert!(svg.contains(&format!("width=\"{room:.1}\"")), "the longest fills the room: {svg}");
        assert!(svg.contains(&format!("width=\"{:.1}\"", room / 4.0)), "a quarter of it: {svg}");
        assert!(svg.contains("4.000 s") && svg.contains("1.000 s"), "{svg}");
        assert_eq!(svg.matches("<line").count(), 2);
    }
}
