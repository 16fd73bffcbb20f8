//! Reads what people write: a [`Bundle`] with `plant.toml` and the files it names, into a [`Plant`].
//!
//! Owns the steps; each has a file of its own. Reads no file system: whoever has the files makes the bundle, and asks
//! [`references`] which ones it needs.
//!
//! 1. `reader`, `raw`, `tags`, `destinations`, `register_list`: tables and lists into typed values with places.
//! 2. `expand`: templates and defaults into devices.
//! 3. `check`: what holds for the whole plant.
//!
//! - All steps run, whatever the earlier ones found: every error is reported at once. Only a file that is no TOML at
//!   all ends it early.
//! - What could not be understood is complained about once; its absence is not complained about again.
//! - [`Notes`] and [`Fields`] know nothing of plants: the node file is read with them, too.

mod bundle;
mod check;
mod destinations;
mod diagnostics;
mod expand;
mod names;
mod patience;
mod raw;
mod reader;
mod register_list;
mod tags;

pub use bundle::{Bundle, BundleError};
pub use diagnostics::{Diagnostic, Diagnostics, Notes, Place, Severity, Spanned};
pub use patience::Patience;
pub use reader::Fields;

use toml_edit::{Document, Item, TableLike};

use crate::plant::Plant;
use expand::Expansion;

/// What a bundle says.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadPlant {
    /// The plant, which is valid.
    pub plant: Plant,
    /// What its author may not have meant; no errors.
    pub warnings: Diagnostics,
}

/// Reads a bundle. Without errors there is a plant, possibly with warnings; otherwise there are all errors, and the
/// warnings with them.
pub fn read_bundle(bundle: &Bundle) -> Result<ReadPlant, Diagnostics> {
    read_bundle_for(bundle, None)
}

/// The same for a cluster of which it is known how long its devices may take to answer: warns of timeouts that promise
/// more.
pub fn read_bundle_for(bundle: &Bundle, patience: Option<&Patience>) -> Result<ReadPlant, Diagnostics> {
    let notes = Notes::new(bundle.files());
    let Some(root) = notes.file(Bundle::ROOT) else {
        return Err(no_root());
    };
    let Some(text) = notes.text(root) else {
        return Err(notes.into_diagnostics());
    };
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            notes.not_toml(root.place, text, &error);
            return Err(notes.into_diagnostics());
        }
    };
    let plant = read_root(document.as_table(), root.place, patience, &notes);
    check::check_files(&references_of(document.as_table()), root.place, &notes);
    drop(document);
    let has_errors = notes.has_errors();
    let found = notes.into_diagnostics();
    match plant {
        Some(plant) if !has_errors => Ok(ReadPlant { plant, warnings: found }),
        _ => Err(found),
    }
}

/// The files that a plant document names, in its order, each once: what must be in the bundle beside it.
///
/// A document that is no TOML names none; [`read_bundle`] says what is wrong with it.
pub fn references(document: &str) -> Vec<String> {
    let text = document.strip_prefix('\u{feff}').unwrap_or(document);
    Document::parse(text).map(|document| references_of(document.as_table())).unwrap_or_default()
}

fn read_root(
    root: &dyn TableLike,
    start: Place,
    patience: Option<&Patience>,
    notes: &Notes<'_>,
) -> Option<Plant> {
    let mut raw = raw::read_document(root, start, notes);
    check::distribute_rows(&mut raw, notes);
    let devices = Expansion::run(&raw, patience, notes);
    check::check_ids(&devices, &raw.destinations, notes);
    check::check_endpoints(&devices, notes);
    check::check_routes(&devices, &raw.destinations, notes);
    Some(Plant {
        cluster: raw.cluster.clone(),
        retention: raw.retention.clone(),
        devices: devices.into_iter().map(|placed| placed.device).collect::<Option<_>>()?,
        destinations: raw.destinations.into_iter().map(|raw| raw.destination).collect::<Option<_>>()?,
    })
}

fn references_of(root: &dyn TableLike) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |table: &dyn TableLike, key: &str| {
        let texts: Vec<&str> = match table.get(key) {
            Some(item) => match item.as_array() {
                Some(list) => list.iter().filter_map(|value| value.as_str()).collect(),
                None => item.as_str().into_iter().collect(),
            },
            None => Vec::new(),
        };
        for name in texts.into_iter().filter_map(bundle::normal_name) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    };
    add(root, "tags");
    for device in tables_of(root, "template").into_iter().chain(tables_of(root, "device")) {
        add(device, "tags");
        for group in tables_of(device, "group") {
            add(group, "tags");
        }
    }
    for destination in tables_of(root, "destination") {
        add(destination, "ca");
    }
    names
}

fn tables_of<'t>(table: &'t dyn TableLike, key: &str) -> Vec<&'t dyn TableLike> {
    match table.get(key) {
        Some(Item::ArrayOfTables(tables)) => tables.iter().map(|table| table as &dyn TableLike).collect(),
        Some(item) => {
            let values = item.as_array().into_iter().flat_map(|list| list.iter());
            values.filter_map(|value| value.as_inline_table().map(|table| table as &dyn TableLike)).collect()
        }
        None => Vec::new(),
    }
}

/// The bytes of a file that is named at `name.place`; complains where the bundle has none of that name.
fn find_file<'b>(name: Spanned<&str>, notes: &Notes<'b>) -> Option<Spanned<&'b [u8]>> {
    let found = bundle::normal_name(name.value).and_then(|normal| notes.file(normal));
    if found.is_none() {
        let help = match bundle::normal_name(name.value) {
            Some(_) => {
                let others = notes.names().filter(|name| *name != Bundle::ROOT);
                names::suggest(name.value, others, "other file")
            }
            None => "a file lies beside plant.toml or in a folder there, and is named with /".to_owned(),
        };
        notes.error_with_help(
            name.place,
            format!("expected a file beside plant.toml, found none named {:?}", name.value),
            help,
        );
    }
    found
}

fn no_root() -> Diagnostics {
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        file: Bundle::ROOT.to_owned(),
        line: 1,
        column: 1,
        message: "expected a file plant.toml, found none".to_owned(),
        help: None,
    };
    Diagnostics { list: vec![diagnostic], more: 0 }
}

#[cfg(test)]
mod tests;
