//! Compares two plants: what would change, and what would be stopped or lost.
//!
//! Owns the list of changes and the text people see; `compare` finds them. Decides nothing: whoever applies a plant
//! asks [`Plan::discards`] what must be agreed to.
//!
//! - Things are compared by id. Their order carries no meaning and is no change.
//! - A plan is empty exactly when the plants say the same.
//! - The effects of all changes together are exactly the grids that close and the backlogs that are given up.

mod compare;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use compare::{compare, keeps_grid};

/// What applying one plant in place of another changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The changes: policies, then devices with their groups and tags, then destinations.
    pub changes: Vec<Change>,
}

/// One thing that is added, removed or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What kind of thing it is.
    pub subject: Subject,
    /// Its full id; empty for the policies.
    pub id: String,
    /// What happens to it.
    pub action: Action,
    /// What is stopped or lost by it.
    pub effects: Vec<Effect>,
}

/// A kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Who should lead.
    Cluster,
    /// How much is kept.
    Retention,
    /// A device.
    Device,
    /// A group of a device.
    Group,
    /// A tag.
    Tag,
    /// A destination.
    Destination,
}

/// What happens to a thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is new, with everything in it.
    Added {
        /// What it is, in a few words.
        summary: String,
    },
    /// It goes, with everything in it.
    Removed {
        /// What it was, in a few words.
        summary: String,
    },
    /// Some of it differs.
    Changed {
        /// What differs; never empty.
        fields: Vec<FieldChange>,
    },
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its key in the document.
    pub field: String,
    /// What it was, as it is written.
    pub old: String,
    /// What it becomes, as it is written.
    pub new: String,
}

/// What a change stops or loses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// A group's grid is closed: its slots until the next one, if there is a next one, are a gap.
    GridClosed {
        /// The group's full id.
        group: String,
    },
    /// A destination goes, and with it what it has not acknowledged.
    BacklogDiscarded {
        /// The destination's id.
        destination: String,
    },
}

impl Effect {
    /// The destination whose backlog is given up.
    pub fn discards(&self) -> Option<&str> {
        match self {
            Self::BacklogDiscarded { destination } => Some(destination),
            Self::GridClosed { .. } => None,
        }
    }
}

impl Plan {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What is stopped or lost by all changes together, each once.
    pub fn effects(&self) -> Vec<&Effect> {
        let mut effects: Vec<&Effect> = self.changes.iter().flat_map(|change| &change.effects).collect();
        effects.sort();
        effects.dedup();
        effects
    }

    /// Whether something is stopped or lost.
    pub fn stops_or_loses(&self) -> bool {
        self.changes.iter().any(|change| !change.effects.is_empty())
    }

    /// Destinations whose backlog is given up: to be agreed to by name.
    pub fn discards(&self) -> Vec<&str> {
        self.effects().into_iter().filter_map(Effect::discards).collect()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Retention => "retention",
            Self::Device => "device",
            Self::Group => "group",
            Self::Tag => "tag",
            Self::Destination => "destination",
        })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GridClosed { group } => {
                write!(f, "group {group}: its schedule ends here; what is missed until the next one is a gap")
            }
            Self::BacklogDiscarded { destination } => {
                write!(f, "destination {destination}: what it has not acknowledged is discarded")
            }
        }
    }
}

impl fmt::Display for Change {
    /// `+`, `-` or `~`, then what and which, then a line for each field.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, summary) = match &self.action {
            Action::Added { summary } => ('+', summary.as_str()),
            Action::Removed { summary } => ('-', summary.as_str()),
            Action::Changed { .. } => ('~', ""),
        };
        write!(f, "{sign} {}", self.subject)?;
        if !self.id.is_empty() {
            write!(f, " {}", self.id)?;
        }
        if !summary.is_empty() {
            write!(f, " ({summary})")?;
        }
        if let Action::Changed { fields } = &self.action {
            for FieldChange { field, old, new } in fields {
                write!(f, "\n    {field}: {old} -> {new}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    /// The changes, how many there are, and what is stopped or lost.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("No changes.");
        }
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        let count = |is: fn(&Action) -> bool| self.changes.iter().filter(|change| is(&change.action)).count();
        write!(
            f,
            "\n{} to add, {} to change, {} to remove.",
            count(|action| matches!(action, Action::Added { .. })),
            count(|action| matches!(action, Action::Changed { .. })),
            count(|action| matches!(action, Action::Removed { .. })),
        )?;
        if self.stops_or_loses() {
            f.write_str("\nStopped or lost:")?;
            for effect in self.effects() {
                write!(f, "\n  {effect}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
