//! The plant document over the API: validate, plan, apply with compare-and-set, get, history, diff, rollback.
//!
//! - What is stored is the bundle byte for byte beside the plant it describes; both come from the same files, here.
//! - Nothing with an error in it is proposed. The ledger compares the revision again: it alone decides.
//! - A backlog is given up only by name.
//! - Of old revisions less and less is kept: what is gone is said to be gone, and not never to have been.
//! - Documents too large for one entry of the log are handed over in parts before the one command that commits them.

use std::sync::Arc;
use std::time::Duration;

use model::command::Command;
use model::ids::{DocumentId, Revision};
use model::plant::Plant;
use model::plant::document::{Bundle, Diagnostics, Patience, ReadPlant, read_bundle_for};
use model::plant::plan::compare;
use store::engine::Engine;
use store::ledger::{RevisionState, State};
use store::{Outcome, staging};
use wire::convert;
use wire::proto::v1 as pb;

use super::failure::Failure;
use super::{AdminService, request, views};

/// How long one step of configuring may take: a slow box takes a while to apply ten thousand tags.
const PATIENCE: Duration = Duration::from_secs(12);
/// Documents of more bytes than this are staged.
const IN_ONE_ENTRY: usize = staging::PART;

impl<E: Engine> AdminService<E> {
    pub(super) async fn validate(
        &self,
        files: Vec<pb::ConfigFile>,
    ) -> Result<pb::ValidateConfigResponse, Failure> {
        let bundle = bundle_of(files)?;
        Ok(convert::validation(&read(bundle, self.patience()).await?.1))
    }

    pub(super) async fn plan(&self, files: Vec<pb::ConfigFile>) -> Result<pb::PlanConfigResponse, Failure> {
        let ReadPlant { plant, warnings } = valid(read(bundle_of(files)?, self.patience()).await?.1)?;
        let (base, old) = self.in_force();
        let plan = compare(&old, &plant);
        Ok(self.replica().store().keeper().read(|state| pb::PlanConfigResponse {
            base_revision: base.0,
            changes: views::changes(&plan),
            effects: views::effects(&plan, state),
            discards: views::discards(&plan, state),
            warnings: convert::diagnostics(&warnings),
        }))
    }

    pub(super) async fn apply(
        &self,
        apply: pb::ApplyConfigRequest,
        principal: &str,
    ) -> Result<pb::ApplyConfigResponse, Failure> {
        let base = Revision(apply.base_revision);
        let (bundle, found) = read(bundle_of(apply.files)?, self.patience()).await?;
        let ReadPlant { plant, warnings } = valid(found)?;
        let packed = bundle.pack();
        let (current, old) = self.in_force();
        let unchanged = self.replica().store().keeper().read(|state| {
            let known = state.revisions.get(&current).and_then(|revision| revision.bundle.as_ref());
            known.is_some_and(|bundle| **bundle == *packed)
        });
        if base == current && unchanged {
            let warnings = convert::diagnostics(&warnings);
            return Ok(pb::ApplyConfigResponse {
                revision: current.0,
                changed: false,
                position: 0,
                warnings,
            });
        }
        let plan = compare(&old, &plant);
        let mut at_stake = self.replica().store().keeper().read(|state| views::discards(&plan, state));
        at_stake.retain(|destination| !apply.discard_backlog.contains(destination));
        // With another revision in force the plan is not the one that was agreed to: the ledger says so.
        if base == current && !at_stake.is_empty() {
            return Err(Failure::BacklogAtStake(at_stake));
        }
        let discard = apply.discard_backlog;
        let request = request(principal, &apply.comment);
        let (packed, plant, documents) = pack(packed, plant).await?;
        let configure = if documents.len() <= IN_ONE_ENTRY {
            let (bundle, plant) = (packed, Box::new(plant));
            Command::Configure { base, bundle, plant, elapsed: Vec::new(), discard, request }
        } else {
            let document = self.stage(&documents).await?;
            Command::ConfigureStaged { base, document, elapsed: Vec::new(), discard, request }
        };
        let applied = self.change_within(PATIENCE, &configure).await?;
        let Outcome::Configured { revision } = applied.outcome else {
            return Err(Failure::Internal(format!("configuring gave {}", applied.outcome)));
        };
        tracing::info!(%revision, principal, "plant configured");
        let warnings = convert::diagnostics(&warnings);
        Ok(pb::ApplyConfigResponse {
            revision: revision.0,
            changed: true,
            position: applied.position.0,
            warnings,
        })
    }

    pub(super) fn get(&self, wanted: u64) -> Result<pb::GetConfigResponse, Failure> {
        let (revision, packed) = self.replica().store().keeper().read(|state| {
            let number = if wanted == 0 { state.revision() } else { Revision(wanted) };
            let found = kept(state, number)?;
            let bundle = found.bundle.clone().ok_or(Failure::RevisionGone(number))?;
            Ok::<_, Failure>((views::revision(number, found), bundle))
        })?;
        let bundle = unpack(&packed)?;
        let file = |(name, bytes): (&str, &[u8])| pb::ConfigFile {
            name: name.to_owned(),
            content: bytes::Bytes::copy_from_slice(bytes),
        };
        Ok(pb::GetConfigResponse { revision: Some(revision), files: bundle.files().map(file).collect() })
    }

    pub(super) fn revisions(&self, limit: u32) -> Vec<pb::Revision> {
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        self.replica().store().keeper().read(|state| {
            let newest_first = state.revisions.iter().rev().take(limit);
            newest_first.map(|(number, revision)| views::revision(*number, revision)).collect()
        })
    }

    pub(super) async fn diff(&self, from: u64, to: Option<u64>) -> Result<pb::DiffConfigResponse, Failure> {
        let to = to.map_or_else(|| self.in_force().0, Revision);
        let (old, new) = (self.plant_of(Revision(from)).await?, self.plant_of(to).await?);
        Ok(pb::DiffConfigResponse { from, to: to.0, changes: views::changes(&compare(&old, &new)) })
    }

    /// The plant of a revision; read anew from its files, where nothing else needs it any more.
    async fn plant_of(&self, number: Revision) -> Result<Arc<Plant>, Failure> {
        if number == Revision(0) {
            return Ok(Arc::default());
        }
        let (plant, bundle) = self.replica().store().keeper().read(|state| {
            let found = kept(state, number)?;
            let plant = found.catalog.as_ref().map(|catalog| Arc::clone(catalog.plant()));
            Ok::<_, Failure>((plant, found.bundle.clone()))
        })?;
        if let Some(plant) = plant {
            return Ok(plant);
        }
        let bundle = unpack(&bundle.ok_or(Failure::RevisionGone(number))?)?;
        Ok(Arc::new(valid(read(bundle, self.patience()).await?.1)?.plant))
    }

    pub(super) async fn rollback(
        &self,
        rollback: pb::RollbackConfigRequest,
        principal: &str,
    ) -> Result<pb::ApplyConfigResponse, Failure> {
        if rollback.to == 0 {
            return Err(Failure::NoSuchRevision(Revision(0)));
        }
        let comment = match rollback.comment.as_str() {
            "" => format!("back to revision {}", rollback.to),
            comment => comment.to_owned(),
        };
        let apply = pb::ApplyConfigRequest {
            files: self.get(rollback.to)?.files,
            base_revision: rollback.base_revision,
            discard_backlog: rollback.discard_backlog,
            comment,
        };
        self.apply(apply, principal).await
    }

    /// Hands documents over in parts, one after the other.
    async fn stage(&self, documents: &[u8]) -> Result<DocumentId, Failure> {
        let document = staging::document_id(documents);
        let all = staging::parts(documents);
        let parts = u32::try_from(all.len()).map_err(|_| Failure::Internal("too many parts".to_owned()))?;
        tracing::info!(%document, parts, bytes = documents.len(), "staging a large plant document");
        for (part, data) in (0..).zip(all) {
            let stage = Command::Stage { document, part, parts, data: data.to_vec() };
            self.change_within(PATIENCE, &stage).await?;
        }
        Ok(document)
    }

    fn in_force(&self) -> (Revision, Arc<Plant>) {
        self.replica().store().keeper().read(|state| (state.revision(), state.plant()))
    }
}

/// What is kept of a revision.
fn kept(state: &State, number: Revision) -> Result<&RevisionState, Failure> {
    let is_gone = number > Revision(0) && number <= state.revision();
    let failure = || if is_gone { Failure::RevisionGone(number) } else { Failure::NoSuchRevision(number) };
    state.revisions.get(&number).ok_or_else(failure)
}

fn bundle_of(files: Vec<pb::ConfigFile>) -> Result<Bundle, Failure> {
    let mut bundle = Bundle::default();
    for file in files {
        bundle.insert(&file.name, file.content).map_err(|error| Failure::InvalidFiles(error.to_string()))?;
    }
    Ok(bundle)
}

fn unpack(packed: &[u8]) -> Result<Bundle, Failure> {
    Bundle::unpack(packed).map_err(|error| Failure::Internal(error.to_string()))
}

/// Reads a bundle on a thread of its own: ten thousand tags take a while.
async fn read(
    bundle: Bundle,
    patience: Patience,
) -> Result<(Bundle, Result<ReadPlant, Diagnostics>), Failure> {
    let reading = tokio::task::spawn_blocking(move || {
        let found = read_bundle_for(&bundle, Some(&patience));
        (bundle, found)
    });
    reading.await.map_err(|error| Failure::Internal(error.to_string()))
}

/// Packs the documents of a revision, on a thread of its own like their reading.
async fn pack(bundle: Vec<u8>, plant: Plant) -> Result<(Vec<u8>, Plant, Vec<u8>), Failure> {
    let packing = tokio::task::spawn_blocking(move || {
        let documents = wire::packed::pack_documents(&bundle, &plant);
        documents.map(|documents| (bundle, plant, documents))
    });
    let packed = packing.await.map_err(|error| Failure::Internal(error.to_string()))?;
    packed.map_err(|error| Failure::InvalidFiles(error.to_string()))
}

fn valid(found: Result<ReadPlant, Diagnostics>) -> Result<ReadPlant, Failure> {
    found.map_err(|errors| Failure::InvalidDocument(Box::new(errors)))
}
