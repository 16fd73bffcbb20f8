//! Everything that is shown on standard output: tables for people, JSON for programs.
//!
//! - Colours only on a terminal, and not where NO_COLOR is set.
//! - One answer is one JSON document; of a stream each stands on a line of its own.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

/// How to show what comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people: local times, aligned columns.
    Table,
    /// For programs: proto3 JSON, times in UTC.
    Json,
}

/// Standard output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    format: Format,
    terminal: bool,
    colours: bool,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// All is well.
    Good,
    /// Something is about to be wrong.
    Warning,
    /// Something is wrong.
    Bad,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { format, terminal, colours }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Shows an answer: as JSON, or as `render` makes it for people.
    pub(super) fn show<T: Serialize>(&self, answer: &T, render: impl FnOnce() -> String) -> io::Result<()> {
        match self.format {
            Format::Json => self.text(&to_json(answer)),
            Format::Table => self.text(&render()),
        }
    }

    /// Shows one of many answers: as JSON on a line of its own, or as `render` makes it for people.
    pub(super) fn show_line<T: Serialize>(
        &self,
        answer: &T,
        render: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => self.text(&to_json_line(answer)),
            Format::Table => self.text(&render()),
        }
    }

    /// Writes text and the end of a line.
    pub(super) fn text(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", text.trim_end_matches('\n'))?;
        stdout.flush()
    }

    /// Writes bytes as they are.
    pub(super) fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// Begins the screen anew, on a terminal.
    pub(super) fn clear(&self) -> io::Result<()> {
        if self.terminal { self.raw(b"\x1b[H\x1b[2J") } else { Ok(()) }
    }

    /// `text` in a colour, where colours are shown.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// An answer as JSON, indented.
pub(super) fn to_json<T: Serialize>(answer: &T) -> String {
    serde_json::to_string_pretty(answer).expect("messages hold nothing that JSON cannot")
}

/// An answer as JSON, on one line.
fn to_json_line<T: Serialize>(answer: &T) -> String {
    serde_json::to_string(answer).expect("messages hold nothing that JSON cannot")
}

/// A table without lines; `nothing` where it has no rows.
pub(super) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>, nothing: &str) -> String {
    if rows.is_empty() {
        return nothing.to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.map(str::to_uppercase));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_where_their_text_ends() {
        let rows = vec![["press-1".to_owned(), "ok".to_owned()], ["p".to_owned(), "down".to_owned()]];
        assert_eq!(table(["id", "state"], rows, "none"), "ID       STATE\npress-1  ok\np        down");
        assert_eq!(table::<1>(["id"], Vec::new(), "No devices."), "No devices.");
    }

    #[test]
    fn json_is_that_of_the_messages() {
        let cursor = wire::proto::v1::Cursor { position: 1 << 60, ordinal: 7 };
        let json: serde_json::Value = serde_json::from_str(&to_json(&cursor)).expect("JSON");
        assert_eq!(json, serde_json::json!({ "position": "1152921504606846976", "ordinal": 7 }));
    }
}
