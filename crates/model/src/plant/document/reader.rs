//! Reads the keys of one TOML table, and complains about what it does not understand.
//!
//! Owns the forms of values (text, number, duration, list, …); which keys there are is for the caller to ask.
//!
//! - A key is known because it was asked for: [`Fields::finish`] complains about all others.
//! - A value that cannot be read is complained about here and then absent; [`Fields::is_broken`] says so, so that
//!   nobody complains that it is missing.
//! - Keys of another table can stand instead of those of the first ([`Fields::with`]): they are read, and complained
//!   about, where they stand.

use std::fmt::Display;
use std::time::Duration;

use toml_edit::{Item, TableLike, Value};

use super::diagnostics::{Notes, Place, Spanned};
use crate::plant::units::{parse_bytes, parse_duration};

/// The keys of one table.
pub struct Fields<'d> {
    table: &'d dyn TableLike,
    place: Place,
    notes: &'d Notes<'d>,
    /// Tables whose keys stand instead of those of `table`, and where they begin.
    instead: Vec<(&'d dyn TableLike, Place)>,
    /// Whether texts may hold `${`.
    plain: bool,
    asked: Vec<&'static str>,
    broken: bool,
}

impl<'d> Fields<'d> {
    /// A table that begins at `place`.
    pub fn new(table: &'d dyn TableLike, place: Place, notes: &'d Notes<'d>) -> Self {
        Self { table, place, notes, instead: Vec::new(), plain: false, asked: Vec::new(), broken: false }
    }

    /// Lets texts hold `${`, in the tables within, too.
    pub fn plain(self) -> Self {
        Self { plain: true, ..self }
    }

    /// Lets the keys of `table`, which begins at `place`, stand instead of this table's, in the tables within, too.
    pub fn with(mut self, table: &'d dyn TableLike, place: Place) -> Self {
        self.instead.push((table, place));
        self
    }

    /// Where the table begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Where complaints go.
    pub fn notes(&self) -> &'d Notes<'d> {
        self.notes
    }

    /// Whether something in this table could not be read, which was complained about.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Marks the table as not understood, because of what was complained about elsewhere.
    pub(super) fn mark_broken(&mut self) {
        self.broken = true;
    }

    /// Complains, and marks the table as not understood.
    pub fn error(&mut self, place: Place, message: impl Into<String>) {
        self.broken = true;
        self.notes.error(place, message);
    }

    /// Complains, says what to do, and marks the table as not understood.
    pub fn error_with_help(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.broken = true;
        self.notes.error_with_help(place, message, help);
    }

    /// Complains that `key` must be there, unless it is there and could not be read.
    pub fn missing(&mut self, key: &str, expected: &str) {
        if !self.has(key) {
            self.error(self.place, format!("expected the key `{key}` ({expected}), found none"));
        }
    }

    /// Whether the key is there, readable or not.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Whatever is behind the key.
    pub(super) fn item(&mut self, key: &'static str) -> Option<Spanned<&'d Item>> {
        self.ask(key);
        self.find(key)
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<Spanned<&'d str>> {
        let item = self.item(key)?;
        match item.value.as_str() {
            Some(text) if self.is_reserved(text) => {
                self.reserved(item.place);
                None
            }
            Some(text) => Some(Spanned { value: text, place: item.place }),
            None => self.wrong(item, "a text in quotes"),
        }
    }

    /// A text that may hold `${`.
    pub(super) fn text_with_variables(&mut self, key: &'static str) -> Option<Spanned<&'d str>> {
        let item = self.item(key)?;
        match item.value.as_str() {
            Some(text) => Some(Spanned { value: text, place: item.place }),
            None => self.wrong(item, "a text in quotes"),
        }
    }

    /// A text that is read further; `read`'s error says what was expected and found.
    pub fn parsed<T, E: Display>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Spanned<T>> {
        let text = self.text(key)?;
        match read(text.value) {
            Ok(value) => Some(Spanned { value, place: text.place }),
            Err(error) => {
                self.error(text.place, error.to_string());
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<Spanned<T>> {
        let text = self.text(key)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(Spanned { value: *value, place: text.place });
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let message = format!("expected {}, found {:?}", quoted_list(&names), text.value);
        match nearest(text.value, names) {
            Some(name) => self.error_with_help(text.place, message, format!("did you mean \"{name}\"?")),
            None => self.error(text.place, message),
        }
        None
    }

    /// True or false.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.flag(key).map(|flag| flag.value)
    }

    /// True or false, and where that is said.
    pub fn flag(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        let item = self.item(key)?;
        match item.value.as_bool() {
            Some(value) => Some(Spanned { value, place: item.place }),
            None => self.wrong(item, "true or false"),
        }
    }

    /// A whole number between the two, inclusive.
    pub(super) fn integer(&mut self, key: &'static str, least: i64, most: i64) -> Option<Spanned<i64>> {
        let item = self.item(key)?;
        match item.value.as_integer() {
            Some(value) if (least..=most).contains(&value) => Some(Spanned { value, place: item.place }),
            _ => self.wrong(item, &format!("a whole number from {least} to {most}")),
        }
    }

    /// A finite number.
    pub(super) fn number(&mut self, key: &'static str) -> Option<Spanned<f64>> {
        let item = self.item(key)?;
        match finite(item.value.as_value()) {
            Some(value) => Some(Spanned { value, place: item.place }),
            None => self.wrong(item, "a number"),
        }
    }

    /// Two finite numbers.
    pub(super) fn pair(&mut self, key: &'static str) -> Option<Spanned<[f64; 2]>> {
        let item = self.item(key)?;
        let numbers: Option<Vec<f64>> =
            item.value.as_array().and_then(|list| list.iter().map(|value| finite(Some(value))).collect());
        match numbers.as_deref() {
            Some(&[first, second]) => Some(Spanned { value: [first, second], place: item.place }),
            _ => self.wrong(item, "a list of two numbers such as [0, 27648]"),
        }
    }

    /// A duration between the two, inclusive.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        least: &str,
        most: &str,
    ) -> Option<Spanned<Duration>> {
        let bound = |text| parse_duration(text).expect("the bounds are constants");
        let found = self.parsed(key, parse_duration)?;
        if (bound(least)..=bound(most)).contains(&found.value) {
            return Some(found);
        }
        let given = self.find(key).and_then(|item| item.value.as_str()).unwrap_or_default();
        self.error(found.place, format!("expected a duration from {least} to {most}, found {given:?}"));
        None
    }

    /// A size in bytes.
    pub fn bytes(&mut self, key: &'static str) -> Option<Spanned<u64>> {
        self.parsed(key, parse_bytes)
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str) -> Option<Spanned<Vec<Spanned<&'d str>>>> {
        let item = self.item(key)?;
        let Some(list) = item.value.as_array() else {
            return self.wrong(item, "a list of texts such as [\"a\", \"b\"]");
        };
        let mut texts = Vec::with_capacity(list.len());
        for value in list {
            let place = value.span().map_or(item.place, |span| item.place.at(span.start));
            match value.as_str() {
                Some(text) if self.is_reserved(text) => self.reserved(place),
                Some(value) => texts.push(Spanned { value, place }),
                None => {
                    self.error(place, format!("expected a text in quotes, found {}", describe_value(value)))
                }
            }
        }
        Some(Spanned { value: texts, place: item.place })
    }

    /// A text, or a list of texts.
    pub(super) fn text_or_texts(&mut self, key: &'static str) -> Vec<Spanned<&'d str>> {
        match self.item(key) {
            Some(item) if item.value.is_array() => self.texts(key).map(|list| list.value).unwrap_or_default(),
            Some(_) => self.text(key).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// A table.
    pub fn table(&mut self, key: &'static str) -> Option<Fields<'d>> {
        self.ask(key);
        let within =
            |(table, place): (&'d dyn TableLike, Place)| Some((table.get(key)?.as_table_like()?, place));
        let mut instead: Vec<_> = self.instead.iter().copied().filter_map(within).collect();
        let (table, place) = match find_in(self.table, self.place, key) {
            Some(item) => match item.value.as_table_like() {
                Some(table) => (table, item.place),
                None => return self.wrong(item, "a table"),
            },
            None if instead.is_empty() => return None,
            None => instead.remove(0),
        };
        Some(Fields { instead, ..self.child(table, place) })
    }

    /// Tables of one kind: `[[key]]`, or a list of `{ … }`.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Fields<'d>> {
        let Some(item) = self.item(key) else { return Vec::new() };
        if let Some(tables) = item.value.as_array_of_tables() {
            let place =
                |span: Option<std::ops::Range<usize>>| span.map_or(item.place, |s| item.place.at(s.start));
            return tables.iter().map(|table| self.child(table, place(table.span()))).collect();
        }
        let Some(list) = item.value.as_array() else {
            let help = format!("write [[{key}]], or {key} = [ {{ … }}, {{ … }} ]");
            let found = describe(item.value);
            self.error_with_help(item.place, format!("expected a list of tables, found {found}"), help);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(list.len());
        for value in list {
            let place = value.span().map_or(item.place, |span| item.place.at(span.start));
            match value.as_inline_table() {
                Some(table) => tables.push(self.child(table, place)),
                None => self.error(place, format!("expected {{ … }}, found {}", describe_value(value))),
            }
        }
        tables
    }

    /// Every key with its text, whatever the keys are.
    pub fn free_texts(self) -> Vec<(&'d str, Spanned<&'d str>)> {
        let mut texts = Vec::new();
        for (key, _) in self.table.iter() {
            let Some(Spanned { value: item, place }) = self.find(key) else { continue };
            match item.as_str() {
                Some(text) if self.is_reserved(text) || self.is_reserved(key) => {
                    reserved_text(self.notes, place);
                }
                Some(value) => texts.push((key, Spanned { value, place })),
                None => {
                    self.notes.error(place, format!("expected a text in quotes, found {}", describe(item)));
                }
            }
        }
        texts
    }

    /// Complains about every key that nobody asked for. To be called when all known keys have been asked for.
    pub fn finish(&mut self) {
        for (key, item) in self.table.iter() {
            if self.asked.contains(&key) {
                continue;
            }
            let span = self.table.key(key).and_then(|key| key.span()).or_else(|| item.span());
            let place = span.map_or(self.place, |span| self.place.at(span.start));
            let help = match nearest(key, self.asked.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("expected one of {}", self.asked.join(", ")),
            };
            self.broken = true;
            self.notes.error_with_help(place, format!("unknown key {key:?}"), help);
        }
    }

    fn ask(&mut self, key: &'static str) {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
    }

    /// What is behind a key, and where.
    fn find(&self, key: &str) -> Option<Spanned<&'d Item>> {
        let mut instead = self.instead.iter().copied();
        let found = instead.find_map(|(table, place)| find_in(table, place, key));
        found.or_else(|| find_in(self.table, self.place, key))
    }

    /// A table within this one.
    fn child(&self, table: &'d dyn TableLike, place: Place) -> Self {
        Self { plain: self.plain, ..Self::new(table, place, self.notes) }
    }

    fn is_reserved(&self, text: &str) -> bool {
        !self.plain && text.contains("${")
    }

    fn wrong<T>(&mut self, item: Spanned<&Item>, expected: &str) -> Option<T> {
        self.error(item.place, format!("expected {expected}, found {}", describe(item.value)));
        None
    }

    fn reserved(&mut self, place: Place) {
        self.broken = true;
        reserved_text(self.notes, place);
    }
}

/// What is behind a key of `table`, and where; the table begins at `start`.
fn find_in<'d>(table: &'d dyn TableLike, start: Place, key: &str) -> Option<Spanned<&'d Item>> {
    let value = table.get(key).filter(|item| !item.is_none())?;
    let span = value.span().or_else(|| table.key(key).and_then(|key| key.span()));
    Some(Spanned { value, place: span.map_or(start, |span| start.at(span.start)) })
}

/// Complains about `${` where it may not be.
pub(super) fn reserved_text(notes: &Notes<'_>, place: Place) {
    notes.error_with_help(
        place,
        "expected a text without `${`, which is reserved",
        "${var.NAME} is understood in the directory of a csv destination only",
    );
}

/// The known word that was probably meant.
pub(super) fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if found.len() > 256 {
        return None;
    }
    let likeness = |name: &str| strsim::jaro_winkler(found, name);
    let best = known.into_iter().map(|name| (likeness(name), name)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.8).then_some(best.1)
}

/// `"a", "b" or "c"`.
fn quoted_list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("{one:?}"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|name| format!("{name:?}")).collect();
            format!("{} or {last:?}", first.join(", "))
        }
    }
}

fn finite(value: Option<&Value>) -> Option<f64> {
    let number = match value? {
        Value::Integer(integer) => *integer.value() as f64,
        Value::Float(float) => *float.value(),
        _ => return None,
    };
    number.is_finite().then_some(number)
}

fn describe(item: &Item) -> String {
    match item {
        Item::Value(value) => describe_value(value),
        Item::Table(_) => "a table".to_owned(),
        Item::ArrayOfTables(_) => "a list of tables".to_owned(),
        Item::None => "nothing".to_owned(),
    }
}

fn describe_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text {:?}", text.value()),
        Value::Integer(number) => format!("the number {}", number.value()),
        Value::Float(number) => format!("the number {}", number.value()),
        Value::Boolean(truth) => truth.value().to_string(),
        Value::Datetime(moment) => format!("the time {}", moment.value()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::InlineTable(_) => "a table".to_owned(),
    }
}
