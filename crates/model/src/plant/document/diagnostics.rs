//! What is wrong with a document, where, and what was expected: all of it at once.
//!
//! Owns the collecting and the text that people see. Judges nothing itself.
//!
//! - The same complaint about the same place is made once, however many devices a template serves.
//! - What is kept is bounded; how many more there were is said.
//! - Lines and columns count from 1; a column counts characters.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use toml_edit::TomlError;

/// How many errors are kept of one document, and how many warnings.
const MAX_KEPT: usize = 1_000;

/// How grave a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What is written cannot be used.
    Error,
    /// It can, and may not be what its author meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How grave it is.
    pub severity: Severity,
    /// The file, by its name in the bundle or by its path.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The character in the line, from 1.
    pub column: u32,
    /// What was found and what was expected.
    pub message: String,
    /// What to do, where that is known.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.severity, self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// Everything that was found, by file and place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// The complaints that were kept.
    pub list: Vec<Diagnostic>,
    /// How many errors were found beyond those.
    pub more: u64,
}

impl Diagnostics {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.more == 0
    }

    /// The errors among them.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The warnings among them.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning)
    }

    /// Whether there is an error among them.
    pub fn has_errors(&self) -> bool {
        self.more > 0 || self.errors().next().is_some()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, diagnostic) in self.list.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more errors", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A place in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    file: u32,
    byte: u32,
}

impl Place {
    /// The byte at `offset` of the same file.
    pub fn at(self, offset: usize) -> Self {
        Self { byte: u32::try_from(offset).unwrap_or(u32::MAX), ..self }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, Copy)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

impl<T> Spanned<T> {
    /// What `make` makes of the value, written at the same place.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: make(self.value), place: self.place }
    }
}

#[derive(Debug)]
struct Note {
    place: Place,
    severity: Severity,
    message: String,
    help: Option<String>,
}

#[derive(Debug)]
struct SourceFile<'b> {
    name: &'b str,
    text: &'b [u8],
    /// Where each line but the first begins.
    lines: Vec<usize>,
}

/// Collects complaints while documents are read. Shared by everything that reads.
#[derive(Debug)]
pub struct Notes<'b> {
    files: Vec<SourceFile<'b>>,
    found: RefCell<Vec<Note>>,
    said: RefCell<HashSet<(Place, String)>>,
    errors: Cell<usize>,
    warnings: Cell<usize>,
    more: Cell<u64>,
}

impl<'b> Notes<'b> {
    /// Nothing has been noted about these files, given by name.
    pub fn new(files: impl IntoIterator<Item = (&'b str, &'b [u8])>) -> Self {
        let file = |(name, bytes): (&'b str, &'b [u8])| {
            let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            SourceFile { name, text, lines: ends.map(|(at, _)| at + 1).collect() }
        };
        Self {
            files: files.into_iter().map(file).collect(),
            found: RefCell::default(),
            said: RefCell::default(),
            errors: Cell::default(),
            warnings: Cell::default(),
            more: Cell::default(),
        }
    }

    /// The beginning and the bytes of a file, without a byte order mark.
    pub fn file(&self, name: &str) -> Option<Spanned<&'b [u8]>> {
        let number = self.files.iter().position(|file| file.name == name)?;
        let place = Place { file: u32::try_from(number).expect("there are few files"), byte: 0 };
        Some(Spanned { value: self.files[number].text, place })
    }

    /// The text of a file; complains where it is not UTF-8.
    pub(super) fn text(&self, file: Spanned<&'b [u8]>) -> Option<&'b str> {
        match std::str::from_utf8(file.value) {
            Ok(text) => Some(text),
            Err(error) => {
                let place = file.place.at(error.valid_up_to());
                self.error_with_help(place, "expected UTF-8, found other bytes", "save the file as UTF-8");
                None
            }
        }
    }

    /// Names of all files.
    pub(super) fn names(&self) -> impl Iterator<Item = &'b str> + Clone {
        self.files.iter().map(|file| file.name)
    }

    /// What is written cannot be used, because of this.
    pub fn error(&self, place: Place, message: impl Into<String>) {
        self.note(Severity::Error, place, message.into(), None);
    }

    /// What is written cannot be used, because of this; and what to do.
    pub fn error_with_help(&self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Error, place, message.into(), Some(help.into()));
    }

    /// The file that begins at `start` and reads `text` is no TOML.
    pub fn not_toml(&self, start: Place, text: &str, error: &TomlError) {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        self.error_with_help(
            start.at(at),
            format!("expected TOML: {message}"),
            "the rest is read once this is mended",
        );
    }

    /// What is written can be used; and what to do.
    pub(super) fn warning(&self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Warning, place, message.into(), Some(help.into()));
    }

    /// Whether an error has been noted.
    pub(super) fn has_errors(&self) -> bool {
        self.errors.get() > 0
    }

    /// `file:line:column` of a place, to refer to it from another.
    pub(super) fn name_of(&self, place: Place) -> String {
        let (file, line, column) = self.locate(place);
        format!("{file}:{line}:{column}")
    }

    /// Everything that was noted, by file and place.
    pub fn into_diagnostics(self) -> Diagnostics {
        let mut found = self.found.take();
        found.sort_by_key(|note| note.place);
        let describe = |Note { place, severity, message, help }| {
            let (file, line, column) = self.locate(place);
            Diagnostic { severity, file: file.to_owned(), line, column, message, help }
        };
        Diagnostics { list: found.into_iter().map(describe).collect(), more: self.more.get() }
    }

    fn note(&self, severity: Severity, place: Place, message: String, help: Option<String>) {
        let mut found = self.found.borrow_mut();
        let kept = match severity {
            Severity::Error => &self.errors,
            Severity::Warning => &self.warnings,
        };
        if kept.get() >= MAX_KEPT {
            if severity == Severity::Error {
                self.more.set(self.more.get() + 1);
            }
        } else if self.said.borrow_mut().insert((place, message.clone())) {
            kept.set(kept.get() + 1);
            found.push(Note { place, severity, message, help });
        }
    }

    fn locate(&self, place: Place) -> (&'b str, u32, u32) {
        let SourceFile { name, text, lines } = &self.files[place.file as usize];
        let byte = text.len().min(place.byte as usize);
        let earlier = lines.partition_point(|start| *start <= byte);
        let line_start = if earlier == 0 { 0 } else { lines[earlier - 1] };
        // A character begins with any byte that does not continue one (RFC 3629, section 3).
        let column = text[line_start..byte].iter().filter(|byte| **byte & 0xC0 != 0x80).count() + 1;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (name, small(earlier + 1), small(column))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bundle;
    use super::*;

    fn notes(bundle: &Bundle) -> (Notes<'_>, Place) {
        let notes = Notes::new(bundle.files());
        let start = notes.file(Bundle::ROOT).expect("it has a root").place;
        (notes, start)
    }

    #[test]
    fn people_see_place_message_and_help() {
        let bundle = Bundle::of_document("\u{feff}a\nbü x");
        let (notes, start) = notes(&bundle);
        notes.error_with_help(start.at(6), "expected y, found x", "write y");
        notes.warning(start, "odd", "look");
        let found = notes.into_diagnostics();
        assert_eq!(
            found.to_string(),
            "plant.toml:1:1: warning: odd\n  help: look\nplant.toml:2:4: error: expected y, found x\n  help: write y"
        );
        assert!(found.has_errors());
        assert_eq!((found.errors().count(), found.warnings().count()), (1, 1));
    }

    #[test]
    fn the_same_complaint_about_the_same_place_is_made_once() {
        let bundle = Bundle::of_document("x");
        let (notes, start) = notes(&bundle);
        notes.error(start, "wrong");
        notes.error(start, "wrong");
        notes.error(start.at(1), "wrong");
        assert_eq!(notes.into_diagnostics().list.len(), 2);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_rest_counted() {
        let bundle = Bundle::of_document("x");
        let (notes, start) = notes(&bundle);
        for number in 0..1_500 {
            notes.warning(start, format!("warning {number}"), "look");
            notes.error(start, number.to_string());
        }
        let found = notes.into_diagnostics();
        assert_eq!((found.errors().count(), found.warnings().count(), found.more), (1_000, 1_000, 500));
        assert!(found.to_string().ends_with("and 500 more errors"));
    }
}
