//! A run as a picture: who read which device when, what was acknowledged and delivered, and what was done to the cluster.
//!
//! - Lines of a history in, one self-contained SVG out; nothing else is looked at.
//! - Bounded: reads that follow each other are one bar, the rest is counted by the second.
//! - A line that makes no sense leaves no trace here: the account says so, which judges.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use simulator::account::{Effect, Fault};
use simulator::history::Kind;

/// Reads of one node no further apart are one bar.
const ONE_BAR_NS: u64 = 400_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Of the drawing, in pixels.
const WIDTH: f64 = 1_200.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 66.0;
const BAR: f64 = 16.0;
const CHART: f64 = 70.0;
const SPACE: f64 = 14.0;
/// Nodes by address; a seventh has the first colour again.
const COLOURS: [&str; 6] = ["#1f77b4", "#ff9d0a", "#2ca02c", "#9467bd", "#8c564b", "#17becf"];
const FAULT: &str = "#d62728";
const QUIET: &str = "#7f7f7f";
/// From one number below the drawing to the next, in seconds: the first that leaves room.
const STEPS: [u64; 9] = [1, 2, 5, 10, 30, 60, 300, 900, 3_600];
const MOST_TICKS: u64 = 24;

/// What is drawn.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Moments of the first and the last line.
    span: Option<(u64, u64)>,
    /// Of each device, in order of time.
    bars: BTreeMap<String, Vec<Bar>>,
    /// By device: when two nodes asked at one time.
    overlaps: Vec<(String, u64)>,
    /// Messages by second.
    acknowledged: BTreeMap<u64, u64>,
    /// Records by second, repeated ones left out.
    delivered: BTreeMap<u64, u64>,
    faults: Vec<Fault>,
    disturbances: Vec<(u64, u64)>,
}

/// Reads of one node that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bar {
    node: IpAddr,
    from_ns: u64,
    to_ns: u64,
}

/// What is looked at in a line.
#[derive(Deserialize)]
struct Line<'a> {
    t_ns: u64,
    #[serde(borrow)]
    process: Cow<'a, str>,
    kind: Kind,
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(default)]
    peer: Option<SocketAddr>,
    #[serde(default)]
    is_new: bool,
    #[serde(default)]
    faults: Vec<Fault>,
    #[serde(default)]
    disturbances: Vec<(u64, u64)>,
}

/// Places on the drawing.
struct Canvas {
    from_ns: u64,
    to_ns: u64,
    bottom: f64,
    text: String,
}

/// Draws a history.
pub fn draw<'a>(history: impl IntoIterator<Item = &'a str>) -> String {
    let mut timeline = Timeline::default();
    for line in history {
        timeline.enter(line);
    }
    timeline.svg()
}

impl Timeline {
    /// Takes the next line.
    pub fn enter(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<Line<'_>>(line) else { return };
        let at_ns = line.t_ns;
        let (from, to) = self.span.unwrap_or((at_ns, at_ns));
        self.span = Some((from.min(at_ns), to.max(at_ns)));
        match (&*line.op, line.kind) {
            ("read", _) => {
                if let Some(peer) = line.peer {
                    self.read(&line.process, peer.ip(), at_ns);
                }
            }
            ("overlap", _) => self.overlaps.push((line.process.into_owned(), at_ns)),
            ("push", Kind::Ok) => *self.acknowledged.entry(at_ns / SECOND_NS).or_default() += 1,
            ("sample", _) if line.is_new => *self.delivered.entry(at_ns / SECOND_NS).or_default() += 1,
            ("told", _) => (self.faults, self.disturbances) = (line.faults, line.disturbances),
            _ => {}
        }
    }

    fn read(&mut self, device: &str, node: IpAddr, at_ns: u64) {
        let bars = self.bars.entry(device.to_owned()).or_default();
        match bars.last_mut() {
            Some(bar) if bar.node == node && at_ns.saturating_sub(bar.to_ns) <= ONE_BAR_NS => {
                bar.to_ns = bar.to_ns.max(at_ns);
            }
            _ => bars.push(Bar { node, from_ns: at_ns, to_ns: at_ns }),
        }
    }

    /// The picture.
    pub fn svg(&self) -> String {
        let (from_ns, to_ns) = self.span.unwrap_or_default();
        let nodes: BTreeSet<IpAddr> = self.bars.values().flatten().map(|bar| bar.node).collect();
        let nodes: Vec<IpAddr> = nodes.into_iter().collect();
        let rows = self.bars.len() as f64;
        let bottom = TOP + rows * (BAR + SPACE) + 2.0 * (CHART + SPACE);
        let mut canvas = Canvas { from_ns, to_ns, bottom, text: String::new() };
        canvas.begin(&nodes);
        self.draw_faults(&mut canvas);
        let mut top = TOP;
        for (device, bars) in &self.bars {
            canvas.label(top + BAR - 4.0, device);
            for bar in bars {
                let place = nodes.iter().position(|node| *node == bar.node).unwrap_or_default();
                let colour = COLOURS[place % COLOURS.len()];
                canvas.bar((bar.from_ns, bar.to_ns), (top, BAR), colour, &bar.node.to_string());
            }
            for (_, at_ns) in self.overlaps.iter().filter(|(at, _)| at == device) {
                canvas.bar((*at_ns, *at_ns), (top - 4.0, BAR + 8.0), FAULT, "two nodes at one time");
            }
            top += BAR + SPACE;
        }
        canvas.chart(top, "acknowledged/s", &self.acknowledged);
        canvas.chart(top + CHART + SPACE, "delivered/s", &self.delivered);
        canvas.end()
    }

    /// Bands behind everything else, the names of faults at their top, in two rows by turns.
    fn draw_faults(&self, canvas: &mut Canvas) {
        for (from_ns, to_ns) in &self.disturbances {
            canvas.band(*from_ns, *to_ns, FAULT, "something was done to the cluster");
            // Most of these are too short for a band.
            canvas.bar((*from_ns, *to_ns), (TOP - 14.0, 8.0), FAULT, "something was done to the cluster");
        }
        for (number, fault) in self.faults.iter().enumerate() {
            let colour = if fault.effect == Effect::None { QUIET } else { FAULT };
            canvas.band(fault.began_ns, fault.ended_ns, colour, &fault.name);
            let y = TOP - if number % 2 == 0 { 20.0 } else { 8.0 };
            canvas.word(canvas.x(fault.began_ns), y, colour, &fault.name);
        }
    }
}

impl Canvas {
    fn x(&self, at_ns: u64) -> f64 {
        let span = self.to_ns.saturating_sub(self.from_ns).max(1) as f64;
        let at = at_ns.clamp(self.from_ns, self.to_ns) - self.from_ns;
        LEFT + at as f64 / span * (WIDTH - LEFT - RIGHT)
    }

    fn begin(&mut self, nodes: &[IpAddr]) {
        let height = self.bottom + 30.0;
        let _ = writeln!(
            self.text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>"
        );
        for (place, node) in nodes.iter().enumerate() {
            let x = LEFT + 150.0 * place as f64;
            let colour = COLOURS[place % COLOURS.len()];
            let _ = writeln!(
                self.text,
                "<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"
            );
            self.word(x + 18.0, 22.0, "#000", &node.to_string());
        }
    }

    /// What lies between two moments; at least a pixel wide.
    fn bar(&mut self, (from_ns, to_ns): (u64, u64), (y, height): (f64, f64), colour: &str, title: &str) {
        let x = self.x(from_ns);
        let width = (self.x(to_ns) - x).max(1.0);
        let title = escaped(title);
        let _ = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\">\
             <title>{title}</title></rect>"
        );
    }

    fn band(&mut self, from_ns: u64, to_ns: u64, colour: &str, title: &str) {
        let _ = write!(self.text, "<g opacity=\"0.15\">");
        self.bar((from_ns, to_ns), (TOP - 6.0, self.bottom - TOP), colour, title);
        self.text.push_str("</g>\n");
    }

    fn word(&mut self, x: f64, y: f64, colour: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(self.text, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{text}</text>");
    }

    fn label(&mut self, y: f64, text: &str) {
        self.word(8.0, y, "#000", text);
    }

    /// Columns, one a second, with the highest count.
    fn chart(&mut self, top: f64, name: &str, seconds: &BTreeMap<u64, u64>) {
        let most = seconds.values().copied().max().unwrap_or_default();
        self.label(top + 12.0, name);
        self.label(top + 26.0, &format!("most: {most}"));
        for (second, count) in seconds {
            let height = CHART * *count as f64 / most.max(1) as f64;
            let from_ns = second * SECOND_NS;
            let place = (top + CHART - height, height);
            self.bar((from_ns, from_ns + SECOND_NS), place, "#555", &count.to_string());
        }
    }

    /// The seconds below, and what has been drawn.
    fn end(mut self) -> String {
        let seconds = self.to_ns.saturating_sub(self.from_ns) / SECOND_NS;
        let fits = |step: &u64| seconds / step <= MOST_TICKS;
        let step = STEPS.into_iter().find(fits).unwrap_or(seconds / MOST_TICKS + 1);
        let mut second = 0;
        while second <= seconds {
            let x = self.x(self.from_ns + second * SECOND_NS);
            self.word(x, self.bottom + 14.0, "#000", &format!("{second} s"));
            second += step;
        }
        self.text.push_str("</svg>\n");
        self.text
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "10.0.0.11";
    const B: &str = "10.0.0.12";

    fn read(node: &str, ms: u64) -> String {
        let t_ns = ms * 1_000_000;
        format!(
            "{{\"t_ns\":{t_ns},\"process\":\"press-1\",\"kind\":\"ok\",\"op\":\"read\",\"peer\":\"{node}:5\"}}"
        )
    }

    fn history() -> Vec<String> {
        let mut lines: Vec<String> = (0..20).map(|slot| read(A, slot * 100)).collect();
        lines.extend((30..40).map(|slot| read(B, slot * 100)));
        let rest = [
            r#"{"t_ns":1500000000,"process":"robot-1","kind":"ok","op":"push","number":0}"#,
            r#"{"t_ns":1600000000,"process":"robot-1","kind":"invoke","op":"push","number":1}"#,
            r#"{"t_ns":1700000000,"process":"historian","kind":"ok","op":"sample","is_new":true,"record":{}}"#,
            r#"{"t_ns":1800000000,"process":"historian","kind":"ok","op":"sample","is_new":false,"record":{}}"#,
            r#"{"t_ns":1900000000,"process":"press-1","kind":"fail","op":"overlap"}"#,
            "no line at all",
            r#"{"t_ns":4000000000,"process":"account","kind":"info","op":"told","disturbances":[],"faults":[{"name":"kill <1>","effect":"failover","began_ns":1950000000,"taken_over_ns":3000000000,"ended_ns":3500000000}]}"#,
        ];
        lines.extend(rest.map(str::to_owned));
        lines
    }

    #[test]
    fn reads_become_bars_and_the_rest_is_counted_by_the_second() {
        let mut timeline = Timeline::default();
        history().iter().for_each(|line| timeline.enter(line));
        let bars = timeline.bars["press-1"].iter().map(|bar| (bar.node.to_string(), bar.from_ns, bar.to_ns));
        let expected = [(A.to_owned(), 0, 1_900_000_000), (B.to_owned(), 3_000_000_000, 3_900_000_000)];
        assert_eq!(bars.collect::<Vec<_>>(), expected);
        assert_eq!(timeline.acknowledged, BTreeMap::from([(1, 1)]));
        assert_eq!(timeline.delivered, BTreeMap::from([(1, 1)]));
        assert_eq!(timeline.overlaps, [("press-1".to_owned(), 1_900_000_000)]);
    }

    #[test]
    fn the_picture_shows_nodes_faults_and_overlaps_and_stands_alone() {
        let lines = history();
        let svg = draw(lines.iter().map(String::as_str));
        for shown in [A, B, "press-1", "kill &lt;1&gt;", "two nodes at one time", "acknowledged/s", "4 s"] {
            assert!(svg.contains(shown), "{shown} is missing in\n{svg}");
        }
        assert_eq!(svg.matches(COLOURS[0]).count(), 2, "its bar and its legend");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("href"));
        for element in ["g", "rect", "text", "title", "svg"] {
            let opened =
                svg.matches(&format!("<{element} ")).count() + svg.matches(&format!("<{element}>")).count();
            let closed = svg.matches(&format!("</{element}>")).count();
            let alone = if element == "rect" { svg.matches("\"/>").count() } else { 0 };
            assert_eq!(opened, closed + alone, "{element}");
        }
    }

    #[test]
    fn an_empty_history_has_a_picture_too() {
        assert!(draw([]).contains("delivered/s"));
    }
}
