//! An entry made ready: what takes long about it is done before the ledger is held, while those who read it go on.
//!
//! - Decoding, putting a staged document together, numbering the names of a plant and resolving them: everything that grows
//!   with the plant. What is left for `apply` is small.
//! - It rests on the ledger as it was behind one entry ([`Basis`]), and is applied to that ledger and no other.
//! - What cannot be read is found out here, when nothing has changed: an entry or document that a newer version wrote is
//!   applied in whole after the upgrade.

use std::sync::Arc;

use bytes::Bytes;
use model::Timestamp;
use model::batch::Source;
use model::catalog::{Catalog, Registry};
use model::command::{Command, Stamp};
use model::ids::{DocumentId, Revision};
use model::plant::Plant;
use wire::ConvertError;
use wire::entry::{FORMAT, Kind, OpenError};

use super::ConfigureParts;
use super::apply::{ApplyError, Body};
use super::state::{LogId, Membership, State};
use crate::answers::Answer;
use crate::staging::Staged;

/// An entry that was read, and no more than that.
#[derive(Debug)]
pub(crate) struct Read {
    id: LogId,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Blank,
    Membership(Membership),
    Command { stamp: Stamp, size: usize, command: Command },
}

/// What preparing an entry needs of the ledger, taken while it is held: handles, and nothing that grows.
#[derive(Debug)]
pub(crate) struct Basis {
    applied: Option<LogId>,
    is_fenced: bool,
    revision: Revision,
    registry: Arc<Registry>,
    catalog: Option<Arc<Catalog>>,
    staged: Option<Staged>,
}

/// An entry that is ready to be applied.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) id: LogId,
    /// The entry behind which it may be applied.
    pub(super) behind: Option<LogId>,
    pub(super) work: Work,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Work {
    Nothing,
    Membership {
        membership: Membership,
        /// Where a member is new: its system tags.
        named: Option<Named>,
    },
    Command {
        stamp: Stamp,
        task: Task,
    },
}

/// What a command asks for.
#[derive(Debug)]
pub(super) enum Task {
    Configure(ConfigureParts),
    ConfigureStaged {
        document: DocumentId,
        /// `None` where the document is not there.
        parts: Option<ConfigureParts>,
    },
    /// Any other.
    Plain {
        size: usize,
        command: Command,
    },
}

/// Names with their numbers, and what they mean from now on.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) registry: Arc<Registry>,
    /// `None` before the first revision.
    pub(super) catalog: Option<Arc<Catalog>>,
}

impl Read {
    /// Reads an entry.
    pub(crate) fn entry(id: LogId, body: &Body) -> Result<Self, ApplyError> {
        let content = match body {
            Body::Blank => Content::Blank,
            Body::Membership(membership) => Content::Membership(membership.clone()),
            Body::Command(bytes) => {
                let opened = wire::entry::open(bytes.clone()).map_err(|source| unreadable(id, source))?;
                Content::Command { stamp: opened.stamp, size: bytes.len(), command: opened.command }
            }
        };
        Ok(Self { id, content })
    }

    /// When it was proposed, by the proposer's wall clock; `None` for what bears no time.
    pub(crate) fn said_at(&self) -> Option<Timestamp> {
        match &self.content {
            Content::Command { stamp, .. } => Some(stamp.at),
            Content::Blank | Content::Membership(_) => None,
        }
    }

    /// Its polled batches with a value in them.
    pub(crate) fn answers(&self) -> Vec<Answer> {
        let Content::Command { command: Command::Append { batches }, .. } = &self.content else {
            return Vec::new();
        };
        let answers = batches.iter().enumerate().filter(|(_, header)| !header.all_bad);
        answers
            .filter_map(|(batch, header)| match header.source {
                Source::Polled { group, .. } => Some(Answer { batch, group, at: header.gateway_time }),
                Source::Pushed { .. } => None,
            })
            .collect()
    }

    /// What it needs of a ledger in this state.
    pub(crate) fn basis(&self, state: &State) -> Basis {
        let staged = match &self.content {
            Content::Command { command: Command::ConfigureStaged { document, .. }, .. } => {
                state.staged.get(document).cloned()
            }
            _ => None,
        };
        Basis {
            applied: state.applied,
            is_fenced: state.is_fenced(self.id),
            revision: state.revision(),
            registry: Arc::clone(&state.registry),
            catalog: state.catalog().cloned(),
            staged,
        }
    }

    /// Makes it ready for the ledger that `basis` was taken of.
    pub(crate) fn prepare(self, basis: Basis) -> Result<Prepared, ApplyError> {
        #[cfg(test)]
        crate::slow::begins();
        let Self { id, content } = self;
        let behind = basis.applied;
        let work = match content {
            Content::Blank => Work::Nothing,
            Content::Membership(membership) => {
                let named = basis.with_members(&membership);
                Work::Membership { membership, named }
            }
            Content::Command { stamp, size, command } => {
                let task = basis.task(size, command).map_err(|source| unreadable(id, source))?;
                Work::Command { stamp, task }
            }
        };
        Ok(Prepared { id, behind, work })
    }
}

impl Basis {
    fn task(self, size: usize, command: Command) -> Result<Task, OpenError> {
        Ok(match command {
            Command::Configure { base, bundle, plant, elapsed, discard, request } => {
                let plant = Arc::from(plant);
                let named = self.with_plant(base, &plant);
                let parts =
                    ConfigureParts { base, bundle: bundle.into(), named, plant, elapsed, discard, request };
                Task::Configure(parts)
            }
            Command::ConfigureStaged { base, document, elapsed, discard, request } => {
                let parts = self.documents(document)?.map(|(bundle, plant)| {
                    let named = self.with_plant(base, &plant);
                    ConfigureParts { base, bundle, named, plant, elapsed, discard, request }
                });
                Task::ConfigureStaged { document, parts }
            }
            command => Task::Plain { size, command },
        })
    }

    /// A staged document, if it is there in whole. What is fenced is refused whatever it holds.
    fn documents(&self, document: DocumentId) -> Result<Option<(Bytes, Arc<Plant>)>, OpenError> {
        let staged = self.staged.as_ref().filter(|_| !self.is_fenced);
        let Some(bytes) = staged.and_then(|staged| staged.assemble(document)) else { return Ok(None) };
        match wire::packed::unpack_documents(&bytes) {
            Ok((bundle, plant)) => Ok(Some((bundle.into(), Arc::new(plant)))),
            Err(ConvertError::Unknown(_)) => {
                Err(OpenError::Newer { format: FORMAT, kind: Kind::ConfigureStaged as u8 })
            }
            Err(ConvertError::Malformed(_)) => Ok(None),
        }
    }

    /// The names of a plant that was made from `base`; `None` where another revision is in force.
    fn with_plant(&self, base: Revision, plant: &Arc<Plant>) -> Option<Named> {
        if self.is_fenced || base != self.revision {
            return None;
        }
        let mut registry = Registry::clone(&self.registry);
        registry.assign(plant);
        let catalog = Catalog::new(Revision(base.0 + 1), Arc::clone(plant), &registry);
        Some(Named { registry: Arc::new(registry), catalog: Some(Arc::new(catalog)) })
    }

    /// The names with those of new members: the catalog in force gets their system tags.
    fn with_members(&self, membership: &Membership) -> Option<Named> {
        let mut registry = Registry::clone(&self.registry);
        if !registry.add_nodes(membership.nodes.values().map(|member| member.name.as_str())) {
            return None;
        }
        let renewed = self.catalog.as_ref().map(|catalog| {
            Arc::new(Catalog::new(catalog.revision(), Arc::clone(catalog.plant()), &registry))
        });
        Some(Named { registry: Arc::new(registry), catalog: renewed })
    }
}

fn unreadable(id: LogId, source: OpenError) -> ApplyError {
    ApplyError::Unreadable { position: id.index, source }
}
