//! Tags as they are written, and what they come to in a device.
//!
//! Owns the rules of one tag: which types fit which addresses, what may be scaled, how long a text is.
//!
//! - What can be judged without knowing the device is judged when a tag is read, the rest by [`resolve_tag`].
//! - A tag that is `broken` has been complained about; it is carried along so that its name is known.

use super::diagnostics::{Notes, Place, Spanned};
use super::names::{Named, read_id};
use super::reader::{Fields, nearest};
use crate::plant::address::{ModbusAddress, WordOrder};
use crate::plant::{Encoding, ModbusPoint, Scaling, Tag};
use crate::value::ValueType;

/// Bytes of an engineering unit at most.
pub(super) const MAX_UNIT: usize = 64;
/// Bytes of a description at most.
pub(super) const MAX_DESCRIPTION: usize = 1_024;

/// A tag as it was written.
#[derive(Debug, Clone)]
pub(super) struct RawTag {
    pub(super) name: Spanned<String>,
    pub(super) address: Option<Spanned<ModbusAddress>>,
    pub(super) kind: Option<Spanned<TagType>>,
    pub(super) length: Option<Spanned<u16>>,
    pub(super) scaling: Option<Spanned<Scaling>>,
    pub(super) word_order: Option<Spanned<WordOrder>>,
    pub(super) unit: String,
    pub(super) description: String,
    pub(super) broken: bool,
}

/// The types that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagType {
    Plain(ValueType),
    Bcd16,
    Bcd32,
}

/// What a tag's device is to it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setting {
    /// It is polled over Modbus, with this word order unless the tag says otherwise, in requests of at most so many
    /// registers.
    Modbus { word_order: WordOrder, max_registers: u16 },
    /// It pushes.
    Push,
}

/// Reads `{ name = …, address = …, type = … }`.
pub(super) fn read_tag(mut fields: Fields<'_>) -> Option<RawTag> {
    let notes = fields.notes();
    let name = read_id(&mut fields, "name", Named::Path);
    let address = fields.item("address").and_then(|item| match item.value.as_integer() {
        Some(number) => {
            let help = format!("write address = \"{number}\"");
            fields.error_with_help(
                item.place,
                format!("expected an address in quotes, found {number}"),
                help,
            );
            None
        }
        None => fields.parsed("address", |text| parse_address(text, item.place, notes)),
    });
    let kind = fields.parsed("type", parse_type);
    fields.missing("type", "bool, i16 … f64, string, bytes, bcd16 or bcd32");
    let length = fields.integer("length", 1, i64::from(u16::MAX));
    let length = length.map(|length| length.map(|bytes| u16::try_from(bytes).expect("within its bounds")));
    let word_order = fields.parsed("word-order", str::parse::<WordOrder>);
    let scaling = read_scaling(&mut fields);
    let unit = fields.text("unit");
    let description = fields.text("description");
    for (text, most) in [(unit, MAX_UNIT), (description, MAX_DESCRIPTION)] {
        if let Some(text) = text.filter(|text| text.value.len() > most) {
            fields.error(text.place, too_long(text.value, most));
        }
    }
    fields.finish();
    let own = |text: Option<Spanned<&str>>| text.map(|text| text.value.to_owned()).unwrap_or_default();
    Some(RawTag {
        name: name?.map(str::to_owned),
        address,
        kind,
        length,
        scaling,
        word_order,
        unit: own(unit),
        description: own(description),
        broken: fields.is_broken(),
    })
}

fn read_scaling(fields: &mut Fields<'_>) -> Option<Spanned<Scaling>> {
    let scale = fields.number("scale");
    let offset = fields.number("offset");
    let raw = fields.pair("raw");
    let range = fields.pair("range");
    for (present, absent) in [("raw", "range"), ("range", "raw")] {
        if fields.has(present) && !fields.has(absent) {
            let place = fields.item(present)?.place;
            fields.error(place, format!("expected `{absent}` beside `{present}`, found none"));
            return None;
        }
    }
    if let (Some(raw), Some(range)) = (raw, range) {
        if let Some(other) = scale.or(offset) {
            fields
                .error(other.place, "expected either `raw` and `range` or `scale` and `offset`, found both");
            return None;
        }
        let factor = (range.value[1] - range.value[0]) / (raw.value[1] - raw.value[0]);
        let scaling = Scaling { factor, offset: range.value[0] - raw.value[0] * factor };
        if factor == 0.0 || !factor.is_finite() || !scaling.offset.is_finite() {
            fields.error(raw.place, "expected two different numbers in `raw` and in `range`");
            return None;
        }
        return Some(Spanned { value: scaling, place: raw.place });
    }
    match linear_scaling(scale, offset) {
        Ok(scaling) => scaling,
        Err((place, message)) => {
            fields.error(place, message);
            None
        }
    }
}

/// A scale from its two numbers, where one is given.
pub(super) fn linear_scaling(
    scale: Option<Spanned<f64>>,
    offset: Option<Spanned<f64>>,
) -> Result<Option<Spanned<Scaling>>, (Place, &'static str)> {
    let Some(place) = scale.or(offset).map(|number| number.place) else { return Ok(None) };
    let factor = scale.map_or(1.0, |scale| scale.value);
    if factor == 0.0 {
        return Err((place, "expected a scale other than 0, which would make every value the same"));
    }
    let value = Scaling { factor, offset: offset.map_or(0.0, |offset| offset.value) };
    Ok(Some(Spanned { value, place }))
}

/// Reads an address; warns of one that is probably that of a manual.
pub(super) fn parse_address(text: &str, place: Place, notes: &Notes<'_>) -> Result<ModbusAddress, String> {
    let address: ModbusAddress = match text.parse() {
        Ok(address) => address,
        Err(error) => {
            return Err(match ModbusAddress::likely_meant(text) {
                Some(meant) => format!("{error}; did you mean \"{meant}\" ({})?", meant.both()),
                None => error.to_string(),
            });
        }
    };
    if let Some(meant) = ModbusAddress::likely_meant(text) {
        notes.warning(
            place,
            format!("{text:?} counts from zero: {}", address.both()),
            format!(
                "if the manual says {}, write \"{}\" or \"{meant}\"",
                meant.one_based(),
                meant.one_based()
            ),
        );
    }
    Ok(address)
}

/// Reads a type: our names, those of IEC 61131-3, and the two of binary-coded decimals.
pub(super) fn parse_type(text: &str) -> Result<TagType, String> {
    match text {
        "bcd16" => return Ok(TagType::Bcd16),
        "bcd32" => return Ok(TagType::Bcd32),
        _ => {}
    }
    if let Ok(known) = text.parse() {
        return Ok(TagType::Plain(known));
    }
    let names = ValueType::ALL.iter().map(|known| known.name()).chain(["bcd16", "bcd32"]);
    let meant = match text.to_ascii_lowercase().as_str() {
        "float" | "float32" | "real" | "single" => Some("f32"),
        "double" | "float64" | "lreal" => Some("f64"),
        "int" | "int16" | "short" => Some("i16"),
        "uint" | "uint16" | "word" | "ushort" => Some("u16"),
        "int32" | "dint" | "long" => Some("i32"),
        "uint32" | "udint" | "dword" => Some("u32"),
        "int64" | "lint" => Some("i64"),
        "uint64" | "ulint" | "lword" => Some("u64"),
        "boolean" | "bit" => Some("bool"),
        "bcd" => Some("bcd16"),
        "str" | "text" | "char" => Some("string"),
        lower => nearest(lower, names.clone()),
    };
    let all = names.collect::<Vec<_>>().join(", ");
    let hint = meant.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
    Err(format!("expected a type ({all}, or INT, REAL, …), found {text:?}{hint}"))
}

/// Says that a text is too long.
pub(super) fn too_long(text: &str, most: usize) -> String {
    format!("expected at most {most} bytes, found {}", text.len())
}

/// What a tag comes to in its device; `None` where it was complained about.
pub(super) fn resolve_tag(raw: &RawTag, setting: Setting, notes: &Notes<'_>) -> Option<Tag> {
    let kind = raw.kind.filter(|_| !raw.broken)?;
    let point = match setting {
        Setting::Push => {
            refuse_for_push(raw, notes)?;
            None
        }
        Setting::Modbus { word_order, max_registers } => {
            let address = raw.address.or_else(|| {
                let help = "\"holding:100\" and \"40101\" are the same register";
                notes.error_with_help(raw.name.place, "expected an address for this tag, found none", help);
                None
            })?;
            let encoding = encoding(raw, kind, notes)?;
            check_fit(address, kind, encoding, max_registers, notes)?;
            check_orders(raw, encoding, notes);
            let word_order = raw.word_order.map_or(word_order, |order| order.value);
            let scaling = raw.scaling.map(|scaling| scaling.value);
            Some(ModbusPoint { address: address.value, encoding, word_order, scaling })
        }
    };
    let value_type = match kind.value {
        _ if raw.scaling.is_some() => ValueType::F64,
        TagType::Plain(value_type) => value_type,
        TagType::Bcd16 => ValueType::U16,
        TagType::Bcd32 => ValueType::U32,
    };
    Some(Tag {
        name: raw.name.value.clone(),
        point,
        value_type,
        unit: raw.unit.clone(),
        description: raw.description.clone(),
    })
}

/// A pushed value arrives as it is: nothing says where it lies or how it is to be understood.
fn refuse_for_push(raw: &RawTag, notes: &Notes<'_>) -> Option<()> {
    let given = [
        ("address", raw.address.map(|given| given.place)),
        ("length", raw.length.map(|given| given.place)),
        ("word-order", raw.word_order.map(|given| given.place)),
        ("scale, offset, raw and range", raw.scaling.map(|given| given.place)),
        (
            "type bcd",
            raw.kind.filter(|kind| !matches!(kind.value, TagType::Plain(_))).map(|given| given.place),
        ),
    ];
    let mut sound = Some(());
    for (what, place) in given {
        if let Some(place) = place {
            notes.error(
                place,
                format!("expected no {what} in a tag that is pushed: its values arrive as they are"),
            );
            sound = None;
        }
    }
    sound
}

fn encoding(raw: &RawTag, kind: Spanned<TagType>, notes: &Notes<'_>) -> Option<Encoding> {
    let textual = matches!(kind.value, TagType::Plain(ValueType::String | ValueType::Bytes));
    if let Some(length) = raw.length.filter(|_| !textual) {
        notes.error(length.place, "expected no length: only string and bytes have one");
        return None;
    }
    if let Some(scaling) = raw.scaling
        && (textual || kind.value == TagType::Plain(ValueType::Bool))
    {
        notes.error(scaling.place, "expected no scale: only numbers have one");
        return None;
    }
    if textual && raw.length.is_none() {
        let help = "length = 16 reads 16 bytes from 8 registers";
        notes.error_with_help(kind.place, "expected a length in bytes beside this type, found none", help);
        return None;
    }
    Some(match (kind.value, raw.length) {
        (TagType::Plain(ValueType::String), Some(length)) => Encoding::Text(length.value),
        (TagType::Plain(ValueType::Bytes), Some(length)) => Encoding::Raw(length.value),
        (TagType::Plain(value_type), _) => Encoding::Plain(value_type),
        (TagType::Bcd16, _) => Encoding::Bcd16,
        (TagType::Bcd32, _) => Encoding::Bcd32,
    })
}

/// Complains where a value cannot be at its address.
fn check_fit(
    address: Spanned<ModbusAddress>,
    kind: Spanned<TagType>,
    encoding: Encoding,
    max_registers: u16,
    notes: &Notes<'_>,
) -> Option<()> {
    let place = address.place;
    let address = address.value;
    let is_bool = kind.value == TagType::Plain(ValueType::Bool);
    let is_bit = address.table.is_bits() || address.bit.is_some();
    let registers = encoding.registers();
    if is_bool && !is_bit {
        let first = ModbusAddress { bit: Some(0), ..address };
        let help = format!("the least significant bit is \"{first}\"");
        let message = format!("expected a bit of the register for a bool, found {}", address.both());
        notes.error_with_help(place, message, help);
    } else if !is_bool && is_bit {
        notes.error(kind.place, format!("expected type bool for a single bit ({})", address.both()));
    } else if registers > max_registers {
        let message = format!(
            "expected a value that one request can read ({max_registers} registers), found one of {registers} at {}",
            address.both()
        );
        notes.error(place, message);
    } else if !address.has_room_for(registers) {
        let message = format!(
            "expected the value to end at register 65535, found {registers} registers from {}",
            address.both()
        );
        notes.error(place, message);
    } else {
        return Some(());
    }
    None
}

/// Warns of a word order that has nothing to put in order.
fn check_orders(raw: &RawTag, encoding: Encoding, notes: &Notes<'_>) {
    let Some(order) = raw.word_order else { return };
    let is_text = matches!(encoding, Encoding::Text(_) | Encoding::Raw(_));
    if !is_text && encoding.registers() < 2 && !order.value.swap_bytes {
        let help = "leave it out: the order of words concerns numbers of 32 and 64 bits";
        notes.warning(order.place, "this word order has no effect: the value has one word", help);
    }
}
