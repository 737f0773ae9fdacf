//! Results as a page: what was to hold, and bars. The page needs nothing but itself.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

/// Width of a plot, in pixels.
const WIDTH: f64 = 720.0;

/// Width of the labels.
const LABELS: f64 = 280.0;

/// Width of the figures behind the bars.
const FIGURES: f64 = 110.0;

/// Height of a bar with its distance to the next.
const STEP: f64 = 26.0;

/// Most bars of a plot that are drawn.
const BARS_MAX: usize = 64;

/// How it looks.
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ccc;text-align:right}\
    td:first-child,th:first-child{text-align:left}.missed{color:#b00020;font-weight:bold}\
    svg{display:block;margin:1rem 0}pre{white-space:pre-wrap;word-break:break-all;font-size:12px}";

/// A page of results.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Files with lines of JSON, as the scenarios print them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The page
    #[arg(long)]
    out: PathBuf,
}

/// Writes the page.
pub(crate) fn write(report: &Report) -> anyhow::Result<()> {
    let mut results = Vec::new();
    for path in &report.files {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let result: Value = serde_json::from_str(line)
                .with_context(|| format!("a line of {} is not JSON", path.display()))?;
            results.push(result);
        }
    }
    let out = &report.out;
    fs::write(out, page(&results)).with_context(|| format!("write {}", out.display()))
}

fn page(results: &[Value]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Lifeboat: measurements</title>\
         <style>{STYLE}</style><h1>Lifeboat: measurements</h1>\n"
    );
    for result in results {
        section(&mut page, result);
    }
    page.push_str("</html>\n");
    page
}

fn section(page: &mut String, result: &Value) {
    let word = |name: &str| escape(result[name].as_str().unwrap_or("?"));
    let at =
        UNIX_EPOCH + Duration::from_secs(result["at_unix_s"].as_u64().unwrap_or(0).min(1 << 36));
    put(page, format_args!("<h2>{}</h2>\n", word("scenario")));
    put(
        page,
        format_args!(
            "<p>{}; store {}; {} processors, load average {}</p>\n",
            humantime::format_rfc3339_seconds(at),
            word("store"),
            result["processors"],
            result["load_average"]
        ),
    );
    checks(page, &result["checks"]);
    for one in result["plots"].as_array().into_iter().flatten() {
        plot(page, one);
    }
    let raw = escape(&result.to_string());
    put(
        page,
        format_args!("<details><summary>All figures</summary><pre>{raw}</pre></details>\n"),
    );
}

fn checks(page: &mut String, checks: &Value) {
    let Some(checks) = checks.as_array().filter(|all| !all.is_empty()) else {
        return;
    };
    page.push_str("<table><tr><th>What is to hold<th>Measured<th>Bound<th></tr>\n");
    for check in checks {
        let ok = check["ok"] == true;
        put(
            page,
            format_args!(
                "<tr><td>{}<td>{}<td>{} {}<td{}>{}</tr>\n",
                escape(check["what"].as_str().unwrap_or("?")),
                figure(check["value"].as_f64().unwrap_or(0.0)),
                if check["at_least"] == true {
                    "≥"
                } else {
                    "≤"
                },
                figure(check["bound"].as_f64().unwrap_or(0.0)),
                if ok { "" } else { " class=\"missed\"" },
                if ok { "holds" } else { "missed" },
            ),
        );
    }
    page.push_str("</table>\n");
}

fn plot(page: &mut String, plot: &Value) {
    let bar = |bar: &Value| {
        let size = bar[1].as_f64().filter(|size| size.is_finite())?;
        Some((escape(bar[0].as_str()?), size.max(0.0)))
    };
    let bars = plot["bars"].as_array().into_iter().flatten();
    let bars: Vec<(String, f64)> = bars.filter_map(bar).take(BARS_MAX).collect();
    let longest = bars.iter().map(|(_, size)| *size).fold(0.0, f64::max);
    let title = escape(plot["title"].as_str().unwrap_or(""));
    let unit = escape(plot["unit"].as_str().unwrap_or(""));
    #[expect(clippy::cast_precision_loss, reason = "a few bars")]
    let height = bars.len() as f64 * STEP;
    put(
        page,
        format_args!(
            "<h3>{title}</h3><svg width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             aria-label=\"{title}\" font-size=\"13\">\n"
        ),
    );
    let mut top = 0.0;
    for (label, size) in bars {
        let width = (WIDTH - LABELS - FIGURES) * size / longest.max(f64::MIN_POSITIVE);
        let (base, left, right) = (top + STEP * 0.65, LABELS - 8.0, LABELS + width + 6.0);
        put(
            page,
            format_args!(
                "<text x=\"{left}\" y=\"{base}\" text-anchor=\"end\">{label}</text>\
                 <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"#2a6f97\"/>\
                 <text x=\"{right:.1}\" y=\"{base}\">{} {unit}</text>\n",
                top + 3.0,
                STEP - 8.0,
                figure(size),
            ),
        );
        top += STEP;
    }
    page.push_str("</svg>\n");
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes everything");
}

/// A figure with as many digits as say something.
fn figure(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_the_checks_and_a_bar_for_each_figure() {
        let result = json!({
            "scenario": "freeze<", "store": "file:///x", "at_unix_s": 0,
            "checks": [{"what": "a", "value": 2.0, "bound": 1.0, "at_least": false, "ok": false}],
            "plots": [{"title": "t", "unit": "ms", "bars": [["x", 1.0], ["y", 2.0]]}],
        });
        let page = page(&[result]);
        assert!(
            page.contains("freeze&lt;") && !page.contains("freeze<<"),
            "{page}"
        );
        assert!(page.contains("class=\"missed\""), "{page}");
        assert_eq!(page.matches("<rect").count(), 2, "{page}");
        assert!(page.contains("width=\"330.0\""), "{page}");
    }

    #[test]
    fn what_is_not_a_result_makes_no_panic() {
        for odd in [
            json!(null),
            json!({"plots": [{"bars": [[1], null]}], "checks": 3}),
        ] {
            assert!(page(&[odd]).contains("<h2>"));
        }
    }
}
