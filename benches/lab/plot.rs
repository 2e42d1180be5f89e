//! The plot: version against time, a panel for each LAN; drawn for light and for dark pages.
use super::{FOLLOWER, Outcome};
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const PANEL: f64 = 170.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 34.0;
const GAP: f64 = 46.0;

/// Draws the outcomes.
pub fn svg(outcomes: &[Outcome]) -> String {
    let last_tick = outcomes.iter().flat_map(|o| o.moments.last()).map(|m| m.tick).max().unwrap_or(1) as f64;
    let newest = outcomes.iter().flat_map(|o| o.moments.last()).map(|m| m.published).max().unwrap_or(1);
    let height = TOP + outcomes.len() as f64 * (PANEL + GAP) + 18.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Version against time on three LANs\">\n<style>\n\
         text {{ font: 12px system-ui, sans-serif; fill: #444; }}\n\
         .title {{ font-weight: 600; fill: #222; }}\n\
         .frame {{ fill: none; stroke: #999; stroke-opacity: .5; }}\n\
         .world {{ fill: none; stroke: #888; stroke-dasharray: 3 3; }}\n\
         .told {{ fill: none; stroke: #c77700; stroke-width: 1.5; }}\n\
         .held {{ fill: none; stroke: #1769aa; stroke-width: 2; }}\n\
         .failed {{ stroke: #c62828; stroke-width: 1.5; }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #bbb; }} .title {{ fill: #eee; }} .world {{ stroke: #999; }} .told {{ stroke: #ffb74d; }}\n\
         .held {{ stroke: #64b5f6; }} .failed {{ stroke: #ff6e6e; }}\n}}\n</style>\n"
    );
    legend(&mut out);
    for (index, outcome) in outcomes.iter().enumerate() {
        let top = TOP + index as f64 * (PANEL + GAP) + 20.0;
        let x = |tick: u64| LEFT + tick as f64 / last_tick * (WIDTH - LEFT - RIGHT);
        let y = |version: u32| top + PANEL - f64::from(version) / f64::from(newest) * (PANEL - 10.0);
        let title = format!(
            "{}: {} versions advertised that could not be had, {} of {} client runs failed",
            outcome.name,
            outcome.unobtainable(),
            outcome.failed(),
            outcome.runs().count()
        );
        let _ = writeln!(out, "<text class=\"title\" x=\"{LEFT}\" y=\"{:.1}\">{title}</text>", top - 6.0);
        let frame = WIDTH - LEFT - RIGHT;
        let _ = writeln!(
            out,
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{frame:.1}\" height=\"{PANEL}\"/>"
        );
        for version in (0..=newest).step_by(10) {
            let at = y(version) + 4.0;
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{at:.1}\" text-anchor=\"end\">{version}</text>",
                LEFT - 6.0
            );
        }
        for moment in &outcome.moments {
            let failed = moment.runs.iter().filter(|run| run.is_error || run.is_short()).count();
            if failed > 0 {
                let (at, foot) = (x(moment.tick), top + PANEL);
                let _ = writeln!(
                    out,
                    "<line class=\"failed\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{foot:.1}\" y2=\"{:.1}\"/>",
                    foot - 5.0 * failed as f64
                );
            }
        }
        let steps = |class: &str, points: Vec<(u64, u32)>| {
            let mut path = String::new();
            for (index, (tick, version)) in points.iter().enumerate() {
                let _ = match index {
                    0 => write!(path, "M{:.1} {:.1}", x(*tick), y(*version)),
                    _ => write!(path, "H{:.1}V{:.1}", x(*tick), y(*version)),
                };
            }
            format!("<path class=\"{class}\" d=\"{path}\"/>\n")
        };
        let moments = || outcome.moments.iter();
        out += &steps("world", moments().map(|m| (m.tick, m.published)).collect());
        out += &steps("told", moments().filter_map(|m| Some((m.tick, m.advertised?))).collect());
        let held = moments().filter_map(|m| {
            let run = m.runs.iter().find(|run| run.client == FOLLOWER)?;
            Some((m.tick, run.got?))
        });
        out += &steps("held", held.collect());
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">time, ticks (0 to {last_tick})</text>\n</svg>",
        WIDTH - RIGHT,
        height - 14.0
    );
    out
}

fn legend(out: &mut String) {
    let mut x = LEFT;
    for (class, what) in [
        ("world", "published (the CDN's TXT record)"),
        ("told", "advertised on the LAN"),
        ("held", "held by the client that follows"),
        ("failed", "client runs that failed"),
    ] {
        let _ = writeln!(
            out,
            "<line class=\"{class}\" x1=\"{x}\" x2=\"{:.1}\" y1=\"16\" y2=\"16\"/>\
             <text x=\"{:.1}\" y=\"20\">{what}</text>",
            x + 22.0,
            x + 28.0
        );
        x += 40.0 + 6.2 * what.len() as f64;
    }
}
