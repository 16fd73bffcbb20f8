//! `[hooks]`: commands that let other programs follow the active node.

use std::time::Duration;

use model::plant::document::Fields;
use model::plant::units::{format_duration, parse_duration};

/// The longest time that a hook may be given: a hand-over waits for it.
pub(crate) const LONGEST_HOOK: Duration = Duration::from_secs(60);

/// Commands that let other programs follow the active node. Each is a program and its arguments; empty: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Run when this node begins to lead.
    pub on_lead: Vec<String>,
    /// Run when it ceases to lead, and once when it starts.
    pub on_yield: Vec<String>,
    /// How long each may take.
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { on_lead: Vec::new(), on_yield: Vec::new(), timeout: Duration::from_secs(5) }
    }
}

/// Reads the table.
pub(super) fn read(mut fields: Fields<'_>) -> Hooks {
    let on_lead = command(&mut fields, "on-lead");
    let on_yield = command(&mut fields, "on-yield");
    let timeout = fields.parsed("timeout", |text| match parse_duration(text) {
        Ok(timeout) if !timeout.is_zero() && timeout <= LONGEST_HOOK => Ok(timeout),
        Ok(_) => {
            let most = format_duration(LONGEST_HOOK);
            Err(format!("expected more than nothing and at most {most}, found {text:?}"))
        }
        Err(error) => Err(error.to_string()),
    });
    fields.finish();
    Hooks { on_lead, on_yield, timeout: timeout.map_or(Hooks::default().timeout, |timeout| timeout.value) }
}

fn command(fields: &mut Fields<'_>, key: &'static str) -> Vec<String> {
    let Some(command) = fields.texts(key) else { return Vec::new() };
    match command.value.first() {
        None => fields.error(command.place, "expected a program and its arguments, found nothing"),
        Some(program) if program.value.is_empty() => {
            fields.error(program.place, "expected a program, found an empty text");
        }
        Some(_) => {}
    }
    command.value.iter().map(|text| text.value.to_owned()).collect()
}
