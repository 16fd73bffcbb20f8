//! Register lists: tags from a CSV file, as spreadsheets write it.
//!
//! Owns the columns. A line comes to the same [`RawTag`] as one written in TOML.
//!
//! - The header names the columns; their order is free, those that a tag does not need may be left out.
//! - Comma or semicolon, whichever the header has more of; UTF-8 with or without a byte order mark; a decimal point.
//! - Empty lines, and lines of empty cells, are passed over.

use csv::{ReaderBuilder, StringRecord, Trim};

use super::diagnostics::{Notes, Place, Spanned};
use super::names::{Named, check_id, suggest};
use super::reader::reserved_text;
use super::tags::{MAX_DESCRIPTION, MAX_UNIT, RawTag, linear_scaling, parse_address, parse_type, too_long};
use crate::plant::address::WordOrder;

/// Where a list is used, which decides about the columns `device` and `group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListKind {
    /// In a group or a device.
    Group,
    /// At the top of the document.
    Top,
}

/// A line.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) device: Option<Spanned<String>>,
    pub(super) group: Option<Spanned<String>>,
    pub(super) tag: RawTag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Device,
    Group,
    Name,
    Address,
    Type,
    Length,
    Unit,
    Scale,
    Offset,
    WordOrder,
    Description,
}

const COLUMNS: [(&str, Column); 11] = [
    ("name", Column::Name),
    ("address", Column::Address),
    ("type", Column::Type),
    ("unit", Column::Unit),
    ("scale", Column::Scale),
    ("offset", Column::Offset),
    ("description", Column::Description),
    ("length", Column::Length),
    ("word-order", Column::WordOrder),
    ("device", Column::Device),
    ("group", Column::Group),
];

/// Reads the list that `file` names; nothing where there is no list, which was complained about.
pub(super) fn read_list(file: Spanned<&str>, kind: ListKind, notes: &Notes<'_>) -> Option<Vec<Row>> {
    let found = super::find_file(file, notes)?;
    let text = notes.text(found)?;
    let delimiter = delimiter(text);
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_reader(text.as_bytes());
    let mut record = StringRecord::new();
    let mut columns: Option<Vec<Option<Column>>> = None;
    let mut rows = Vec::new();
    let mut places = Vec::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            // The text is UTF-8 and lines may have any number of cells, so nothing else can be wrong with it.
            Err(error) => {
                notes.error(found.place, format!("expected a list in CSV: {error}"));
                break;
            }
        }
        let start =
            record.position().map_or(0, |position| usize::try_from(position.byte()).unwrap_or(usize::MAX));
        cell_places(text, start, delimiter, found.place, &mut places);
        match &columns {
            None => columns = Some(read_header(&record, &places, kind, notes)),
            Some(_) if record.iter().all(str::is_empty) => {}
            Some(columns) => {
                rows.extend(Line { columns, record: &record, places: &places, notes }.read(kind))
            }
        }
    }
    if columns.is_none() {
        let expected = "a header such as name,address,type,unit,scale,offset,description";
        notes.error(found.place, format!("expected {expected}, found nothing"));
        return None;
    }
    Some(rows)
}

/// Semicolon or comma, whichever the first line that is not empty has more of.
fn delimiter(text: &str) -> u8 {
    let header = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if header.matches(';').count() > header.matches(',').count() { b';' } else { b',' }
}

/// Where each cell of the line that begins at `start` has its first character.
fn cell_places(text: &str, start: usize, delimiter: u8, file: Place, places: &mut Vec<Place>) {
    places.clear();
    let bytes = text.as_bytes();
    // The position of a line is that of the empty lines in front of it.
    let mut at = start.min(bytes.len());
    while matches!(bytes.get(at), Some(b'\r' | b'\n')) {
        at += 1;
    }
    let mut is_quoted = false;
    let mut is_fresh = true;
    for (offset, byte) in bytes[at..].iter().enumerate() {
        let ends_line = matches!(byte, b'\r' | b'\n') && !is_quoted;
        if is_fresh && (ends_line || *byte == delimiter || !matches!(byte, b' ' | b'\t')) {
            places.push(file.at(at + offset));
            is_fresh = false;
        }
        if ends_line {
            return;
        }
        if *byte == b'"' {
            is_quoted = !is_quoted;
        } else if *byte == delimiter && !is_quoted {
            is_fresh = true;
        }
    }
    if places.is_empty() {
        places.push(file.at(at));
    }
}

fn read_header(
    record: &StringRecord,
    places: &[Place],
    kind: ListKind,
    notes: &Notes<'_>,
) -> Vec<Option<Column>> {
    let known = || COLUMNS.iter().map(|(name, _)| *name);
    let start = places.first().copied();
    let mut columns: Vec<Option<Column>> = Vec::with_capacity(record.len());
    for (name, place) in record.iter().zip(places) {
        let column = COLUMNS.iter().find(|(known, _)| *known == name).map(|(_, column)| *column);
        match column {
            // A column without a name is passed over: spreadsheets leave empty ones behind.
            None if name.is_empty() => {}
            None => {
                let message = format!("unknown column {name:?}");
                notes.error_with_help(*place, message, suggest(&name.to_lowercase(), known(), "column"));
            }
            Some(column) if columns.contains(&Some(column)) => {
                notes.error(*place, format!("expected each column once, found {name:?} again"));
            }
            Some(Column::Device | Column::Group) if kind == ListKind::Group => {
                let help = "write tags = \"…\" at the top of plant.toml for a list of several devices";
                notes.error_with_help(
                    *place,
                    format!("expected no column {name:?} in the list of one group"),
                    help,
                );
            }
            Some(_) => {}
        }
        columns.push(column);
    }
    let needed: &[(&str, Column)] = match kind {
        ListKind::Group => &[("name", Column::Name), ("type", Column::Type)],
        ListKind::Top => &[("device", Column::Device), ("name", Column::Name), ("type", Column::Type)],
    };
    for (name, column) in needed {
        if let (Some(start), false) = (start, columns.contains(&Some(*column))) {
            let found = record.iter().collect::<Vec<_>>().join(",");
            notes.error(start, format!("expected a column {name:?} in the header, found {found:?}"));
        }
    }
    columns
}

/// One line with its columns.
struct Line<'a, 'b> {
    columns: &'a [Option<Column>],
    record: &'a StringRecord,
    places: &'a [Place],
    notes: &'a Notes<'b>,
}

impl<'a> Line<'a, '_> {
    /// The tag, even if something about it was complained about; nothing if it has no name.
    fn read(&self, kind: ListKind) -> Option<Row> {
        let mut sound = self.check_cells();
        let name = self.needed(Column::Name, "a name", &mut sound);
        let tag_type = self.needed(Column::Type, "a type", &mut sound);
        let device = match kind {
            ListKind::Top => self.needed(Column::Device, "the id of a device", &mut sound),
            ListKind::Group => None,
        };
        let name = name?;
        if let Err(message) = check_id(name.value, Named::Path) {
            self.notes.error(name.place, message);
            sound = false;
        }
        let address = self
            .parsed(Column::Address, &mut sound, |cell| parse_address(cell.value, cell.place, self.notes));
        let tag_kind = self.parse(tag_type, &mut sound, |cell| parse_type(cell.value));
        let length = self.parsed(Column::Length, &mut sound, |cell| {
            let length = cell.value.parse().ok().filter(|length: &u16| *length > 0);
            length.ok_or_else(|| format!("expected a length in bytes, 1 to 65535, found {:?}", cell.value))
        });
        let word_order = self.parsed(Column::WordOrder, &mut sound, |cell| {
            cell.value.parse::<WordOrder>().map_err(|error| error.to_string())
        });
        let scale = self.parsed(Column::Scale, &mut sound, parse_number);
        let offset = self.parsed(Column::Offset, &mut sound, parse_number);
        let scaling = linear_scaling(scale, offset).unwrap_or_else(|(place, message)| {
            self.notes.error(place, message);
            sound = false;
            None
        });
        let own = |cell: Spanned<&str>| cell.map(str::to_owned);
        let tag = RawTag {
            name: own(name),
            address,
            kind: tag_kind,
            length,
            scaling,
            word_order,
            unit: self.bounded(Column::Unit, MAX_UNIT, &mut sound),
            description: self.bounded(Column::Description, MAX_DESCRIPTION, &mut sound),
            broken: !sound,
        };
        Some(Row { device: device.map(own), group: self.cell(Column::Group).map(own), tag })
    }

    /// Complains about cells beyond the header and about reserved text.
    fn check_cells(&self) -> bool {
        let mut sound = true;
        for (number, text) in self.record.iter().enumerate() {
            let place = self.place(number);
            if number >= self.columns.len() && !text.is_empty() {
                let message = format!(
                    "expected {} cells as in the header, found {text:?} behind them",
                    self.columns.len()
                );
                self.notes.error_with_help(
                    place,
                    message,
                    "put a text with the separator in it into double quotes",
                );
                return false;
            }
            if text.contains("${") {
                reserved_text(self.notes, place);
                sound = false;
            }
        }
        sound
    }

    fn place(&self, number: usize) -> Place {
        *self.places.get(number).or(self.places.last()).expect("a line that was read has a first cell")
    }

    /// A cell that is not empty.
    fn cell(&self, column: Column) -> Option<Spanned<&'a str>> {
        let number = self.columns.iter().position(|known| *known == Some(column))?;
        let value = self.record.get(number).filter(|text| !text.is_empty())?;
        Some(Spanned { value, place: self.place(number) })
    }

    /// A cell that must not be empty. A column that is missing altogether was complained about once.
    fn needed(&self, column: Column, expected: &str, sound: &mut bool) -> Option<Spanned<&'a str>> {
        let cell = self.cell(column);
        if cell.is_none() {
            *sound = false;
            if let Some(number) = self.columns.iter().position(|known| *known == Some(column)) {
                self.notes.error(self.place(number), format!("expected {expected}, found an empty cell"));
            }
        }
        cell
    }

    fn parsed<T>(
        &self,
        column: Column,
        sound: &mut bool,
        read: impl FnOnce(Spanned<&str>) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        self.parse(self.cell(column), sound, read)
    }

    fn parse<T>(
        &self,
        cell: Option<Spanned<&str>>,
        sound: &mut bool,
        read: impl FnOnce(Spanned<&str>) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        let cell = cell?;
        match read(cell) {
            Ok(value) => Some(Spanned { value, place: cell.place }),
            Err(message) => {
                self.notes.error(cell.place, message);
                *sound = false;
                None
            }
        }
    }

    fn bounded(&self, column: Column, most: usize, sound: &mut bool) -> String {
        let Some(cell) = self.cell(column) else { return String::new() };
        if cell.value.len() > most {
            self.notes.error(cell.place, too_long(cell.value, most));
            *sound = false;
        }
        cell.value.to_owned()
    }
}

fn parse_number(cell: Spanned<&str>) -> Result<f64, String> {
    let number = cell.value.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("expected a number with a decimal point, found {:?}", cell.value))
}

#[cfg(test)]
mod tests {
    use super::super::{Bundle, read_bundle};
    use crate::plant::document::Diagnostics;
    use crate::plant::{Plant, Scaling};

    fn read(list: &[u8]) -> Result<(Plant, Diagnostics), Diagnostics> {
        let mut bundle = Bundle::of_document(
            "version = 1\n[[device]]\nid = \"press\"\ndriver = \"modbus-tcp\"\naddress = \"a:502\"\n\
             [[device.group]]\nid = \"fast\"\nperiod = \"1s\"\ntags = \"press-1.csv\"\n\
             [[destination]]\nid = \"h\"\nkind = \"http\"\nurl = \"http://h\"\n",
        );
        bundle.insert("press-1.csv", list).expect("a small file");
        read_bundle(&bundle).map(|read| (read.plant, read.warnings))
    }

    #[test]
    fn a_list_of_a_spreadsheet_reads_like_one_written_by_hand() {
        let by_hand =
            read(b"name,address,type,unit,scale,offset,description\nlevel,40103,i16,m,0.5,-1,\"a, b\"\n")
                .expect("sound");
        let semicolons = "\u{feff}name;address;type;description;unit;scale;offset;;\r\n\r\nlevel; holding:102 ;INT;\"a, b\";m;0.5;-1;;\r\n;;;;;;;;\r\n";
        let spreadsheet = read(semicolons.as_bytes()).expect("sound");
        assert_eq!(by_hand, spreadsheet);
        let tag = &by_hand.0.devices[0].groups[0].tags[0];
        assert_eq!(tag.point.expect("polled").scaling, Some(Scaling { factor: 0.5, offset: -1.0 }));
        assert_eq!(tag.description, "a, b");
        assert!(by_hand.1.is_empty(), "{}", by_hand.1);
    }

    #[test]
    fn every_fault_of_a_list_has_its_line_and_column() {
        let list =
            "name;address;type;scale\n\nlevel;40103;i61;1\nä;;f32;0,5\n;40107;f32;1\nd;40109;f32;1;x\n";
        let found = read(list.as_bytes()).expect_err("five faults").to_string();
        for expected in [
            "press-1.csv:3:13: error: expected a type",
            "press-1.csv:4:8: error: expected a number with a decimal point, found \"0,5\"",
            "press-1.csv:5:1: error: expected a name, found an empty cell",
            "press-1.csv:6:15: error: expected 4 cells",
        ] {
            assert!(found.contains(expected), "expected {expected} in:\n{found}");
        }
    }

    #[test]
    fn a_wrong_header_is_complained_about_once() {
        let found = read(b"name,adress,typ\na,40001,i16\nb,40002,i16\n").expect_err("two faults");
        let found = found.to_string();
        assert!(
            found.contains(
                "press-1.csv:1:6: error: unknown column \"adress\"\n  help: did you mean \"address\"?"
            ),
            "{found}"
        );
        assert!(found.contains("expected a column \"type\" in the header"), "{found}");
        assert!(!found.contains("press-1.csv:2"), "{found}");
    }

    #[test]
    fn bytes_that_are_no_utf8_are_named_with_their_place() {
        let found = read(b"name,address,type,unit\na,40001,i16,\xB0C\n").expect_err("Latin-1").to_string();
        assert!(found.contains("press-1.csv:2:13: error: expected UTF-8"), "{found}");
    }

    #[test]
    fn a_list_without_anything_is_an_error() {
        let found = read(b"\n").expect_err("empty").to_string();
        assert!(found.contains("press-1.csv:1:1: error: expected a header"), "{found}");
    }
}
