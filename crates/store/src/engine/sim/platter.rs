//! What lies on the simulated disk, and what a power cut makes of it.
//!
//! - Families are a `base` and the commits logged after it, in order. Commits are numbered from the first ever.
//! - `synced` and `shown` count commits from the first: those before `synced` survive a crash, those before `shown`
//!   are in `current`, which is what readers see.
//! - The oldest commits are folded into `base` once they are synced and shown; the rest is what can be forgotten.
//! - What is being written beside the families is a *flight*: until it lands, a crash decides how it ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use runtime::random::{Random, generator};

use super::{Crash, Operation, failed};
use crate::engine::{EngineError, Family, SLOT_BYTES, Write};

/// Commits kept apart, so that a disk can forget them.
const REMEMBERED: usize = 256;

/// Keys that stay although their space was given back, because they share a file with needed ones.
const STRAGGLERS: usize = 8;

type Rows = BTreeMap<Vec<u8>, Bytes>;
type Families = BTreeMap<Family, Rows>;

/// A write beside the families that is under way.
#[derive(Debug)]
pub(super) enum Flight {
    File { name: String, bytes: Bytes },
    Slot { name: String, slot: usize, bytes: Box<[u8; SLOT_BYTES]> },
    Removal { name: String },
}

#[derive(Debug)]
pub(super) struct Platter {
    pub(super) latency: (Duration, Duration),
    /// That of whole files, where it is another.
    pub(super) file_latency: Option<Duration>,
    pub(super) faults: Vec<(Operation, u64)>,
    pub(super) capacity: Option<u64>,
    pub(super) damaged: BTreeSet<(Family, Vec<u8>)>,
    pub(super) files: BTreeMap<String, Bytes>,
    pub(super) slots: BTreeMap<String, [[u8; SLOT_BYTES]; 2]>,
    leftovers: BTreeMap<String, Bytes>,
    random: Random,
    openings: u64,
    is_open: bool,
    base: Families,
    logged: VecDeque<Vec<Write>>,
    first: u64,
    synced: u64,
    shown: u64,
    current: Families,
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
}

impl Platter {
    pub(super) fn new(seed: u64) -> Self {
        let empty: Families = Family::ALL.into_iter().map(|family| (family, Rows::new())).collect();
        Self {
            latency: (Duration::ZERO, Duration::ZERO),
            file_latency: None,
            faults: Vec::new(),
            capacity: None,
            damaged: BTreeSet::new(),
            files: BTreeMap::new(),
            slots: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            random: generator(Some(seed)),
            openings: 0,
            is_open: false,
            base: empty.clone(),
            logged: VecDeque::new(),
            first: 0,
            synced: 0,
            shown: 0,
            current: empty,
            flights: BTreeMap::new(),
            next_flight: 0,
        }
    }

    /// Opens the disk after a crash or the end of a process, and gives the opening its number.
    pub(super) fn open(&mut self) -> Result<u64, EngineError> {
        if self.is_open {
            return Err(failed("open", "another holdfast node is running on this disk"));
        }
        let mut random = self.random.clone();
        self.end_flights(&mut random);
        self.random = random;
        self.leftovers.clear();
        self.current = self.base.clone();
        self.shown = self.first;
        if let Some(last) = self.next().checked_sub(1) {
            // What an opening finds is durable, as after the recovery of a write-ahead log, which syncs what it read.
            self.synced = self.next();
            self.show(last);
        }
        self.openings += 1;
        self.is_open = true;
        Ok(self.openings)
    }

    pub(super) fn is_open(&self, opening: u64) -> bool {
        self.is_open && self.openings == opening
    }

    pub(super) fn close(&mut self, opening: u64) {
        if self.openings == opening {
            self.is_open = false;
        }
    }

    pub(super) fn crash(&mut self, random: &mut impl Rng) -> Crash {
        self.is_open = false;
        self.end_flights(random);
        let pending = (self.next() - self.synced) as usize;
        let survived = random.random_range(0..=pending);
        self.logged.truncate(self.logged.len() - (pending - survived));
        self.synced = self.next();
        Crash { lost: pending - survived, survived }
    }

    pub(super) fn forget_last(&mut self, commits: usize) -> usize {
        assert!(!self.is_open, "a disk forgets while the power is off");
        let forgotten = commits.min(self.logged.len());
        self.logged.truncate(self.logged.len() - forgotten);
        self.synced = self.synced.min(self.next());
        self.shown = self.shown.min(self.next());
        forgotten
    }

    /// Appends a commit to the log, where it is neither durable nor visible yet, and gives it its number.
    pub(super) fn log(&mut self, writes: Vec<Write>) -> Result<u64, EngineError> {
        self.strike(Operation::Commit, "commit")?;
        let bytes: usize = writes.iter().map(size_of_write).sum();
        self.reserve("commit", bytes)?;
        self.logged.push_back(writes);
        Ok(self.next() - 1)
    }

    /// Makes a commit and all before it durable.
    pub(super) fn sync(&mut self, number: u64) -> Result<(), EngineError> {
        self.strike(Operation::Sync, "commit")?;
        self.synced = self.synced.max(number + 1);
        Ok(())
    }

    /// Makes a commit and all before it visible.
    pub(super) fn show(&mut self, number: u64) {
        while self.shown <= number {
            let writes = &self.logged[(self.shown - self.first) as usize];
            for write in writes {
                apply(&mut self.current, write);
                if let Write::Put(family, key, _) = write {
                    self.damaged.remove(&(*family, key.clone()));
                }
            }
            self.shown += 1;
        }
        while self.logged.len() > REMEMBERED && self.first < self.synced.min(self.shown) {
            for write in self.logged.pop_front().iter().flatten() {
                apply(&mut self.base, write);
            }
            self.first += 1;
        }
    }

    /// Begins a write beside the families; returns its number and the time it takes.
    pub(super) fn take_off(&mut self, flight: Flight) -> Result<(u64, Duration), EngineError> {
        let (operation, name, bytes) = match &flight {
            Flight::File { bytes, .. } => (Operation::WriteFile, "write_file", bytes.len()),
            Flight::Slot { .. } => (Operation::WriteSlot, "write_slot", SLOT_BYTES),
            Flight::Removal { .. } => (Operation::RemoveFile, "remove_file", 0),
        };
        if let Err(error) = self.strike(operation, name).and_then(|()| self.reserve(name, bytes)) {
            let mut random = self.random.clone();
            self.break_off(flight, &mut random);
            self.random = random;
            return Err(error);
        }
        let pause = match (&flight, self.file_latency) {
            (Flight::File { .. }, Some(latency)) => latency,
            _ => self.pause(),
        };
        let number = self.next_flight;
        self.next_flight += 1;
        self.flights.insert(number, flight);
        Ok((number, pause))
    }

    /// Ends a write beside the families: it is durable.
    pub(super) fn land(&mut self, number: u64) {
        // Earlier ones whose caller went away are done too: they were ahead in the disk's queue.
        let later = self.flights.split_off(&(number + 1));
        for flight in std::mem::replace(&mut self.flights, later).into_values() {
            self.complete(flight);
        }
    }

    /// Returns the bytes that are left of the family.
    pub(super) fn drop_below(&mut self, family: Family, key: &[u8]) -> Result<u64, EngineError> {
        self.strike(Operation::DropBelow, "drop_below")?;
        let stay = self.random.random_range(0..=STRAGGLERS);
        for rows in [&mut self.current, &mut self.base] {
            let rows = rows.get_mut(&family).expect("every family is on the disk");
            let below: Vec<_> = rows.keys().take_while(|at| at.as_slice() < key).cloned().collect();
            for key in below.iter().rev().skip(stay) {
                rows.remove(key);
            }
        }
        Ok(bytes_of(&self.current[&family]))
    }

    pub(super) fn family(&self, family: Family) -> &Rows {
        &self.current[&family]
    }

    pub(super) fn check_readable(&self, family: Family, key: &[u8]) -> Result<(), EngineError> {
        // Almost always nothing is damaged, and then nothing is copied.
        if !self.damaged.is_empty() && self.damaged.contains(&(family, key.to_vec())) {
            return Err(EngineError::Damaged(format!("bad checksum of key {key:02x?} of {}", family.name())));
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> u64 {
        let rows = self.current.values().map(bytes_of).sum::<u64>();
        let files = self.files.values().chain(self.leftovers.values()).map(Bytes::len).sum::<usize>();
        rows + (files + self.slots.len() * 2 * SLOT_BYTES) as u64
    }

    /// How long the next write takes.
    pub(super) fn pause(&mut self) -> Duration {
        let (least, most) = self.latency;
        if least == most { least } else { self.random.random_range(least..=most) }
    }

    pub(super) fn flip_bit(&mut self, family: Family, key: &[u8]) -> bool {
        let Some(old) = self.current[&family].get(key).filter(|value| !value.is_empty()) else {
            return false;
        };
        let flipped = flip(old, &mut self.random);
        for rows in [&mut self.current, &mut self.base] {
            if let Some(value) = rows.get_mut(&family).and_then(|rows| rows.get_mut(key)) {
                *value = flipped.clone();
            }
        }
        for write in self.logged.iter_mut().flatten() {
            match write {
                Write::Put(of, at, value) if *of == family && at == key => *value = flipped.clone(),
                _ => {}
            }
        }
        true
    }

    pub(super) fn flip_bit_in_file(&mut self, name: &str) -> bool {
        match self.files.get_mut(name) {
            Some(bytes) if !bytes.is_empty() => {
                *bytes = flip(bytes, &mut self.random);
                true
            }
            _ => false,
        }
    }

    /// The number of the next commit.
    fn next(&self) -> u64 {
        self.first + self.logged.len() as u64
    }

    /// Counts an operation, and fails it if it is one that was chosen to fail.
    fn strike(&mut self, operation: Operation, name: &'static str) -> Result<(), EngineError> {
        let mut is_struck = false;
        self.faults.retain_mut(|(of, left)| {
            if *of != operation {
                return true;
            }
            *left -= 1;
            is_struck |= *left == 0;
            *left > 0
        });
        if is_struck { Err(failed(name, "input/output error")) } else { Ok(()) }
    }

    fn reserve(&self, operation: &'static str, bytes: usize) -> Result<(), EngineError> {
        match self.capacity {
            Some(capacity) if self.usage() + bytes as u64 > capacity => {
                Err(failed(operation, "no space left on device"))
            }
            _ => Ok(()),
        }
    }

    /// The power goes while writes are under way: each is done, not begun, or broken off.
    fn end_flights(&mut self, random: &mut impl Rng) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            match random.random_range(0..3) {
                0 => self.complete(flight),
                1 => self.break_off(flight, random),
                _ => {}
            }
        }
    }

    fn complete(&mut self, flight: Flight) {
        match flight {
            Flight::File { name, bytes } => {
                self.leftovers.remove(&name);
                self.files.insert(name, bytes);
            }
            Flight::Slot { name, slot, bytes } => {
                self.slots.entry(name).or_insert([[0; SLOT_BYTES]; 2])[slot] = *bytes;
            }
            Flight::Removal { name } => {
                self.files.remove(&name);
            }
        }
    }

    fn break_off(&mut self, flight: Flight, random: &mut impl Rng) {
        match flight {
            Flight::File { name, bytes } => {
                let written = random.random_range(0..=bytes.len());
                self.leftovers.insert(name, bytes.slice(..written));
            }
            // A slot file comes into being as a whole: only one that is there can be torn.
            Flight::Slot { name, slot, bytes } => {
                if let Some(slots) = self.slots.get_mut(&name) {
                    let written = random.random_range(1..SLOT_BYTES);
                    slots[slot][..written].copy_from_slice(&bytes[..written]);
                }
            }
            Flight::Removal { .. } => {}
        }
    }
}

fn apply(families: &mut Families, write: &Write) {
    let (Write::Put(family, ..) | Write::Delete(family, _) | Write::DeleteRange(family, ..)) = write;
    let rows = families.get_mut(family).expect("every family is on the disk");
    match write {
        Write::Put(_, key, value) => {
            rows.insert(key.clone(), value.clone());
        }
        Write::Delete(_, key) => {
            rows.remove(key);
        }
        Write::DeleteRange(_, from, to) => rows.retain(|key, _| key < from || key >= to),
    }
}

fn bytes_of(rows: &Rows) -> u64 {
    rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
}

fn size_of_write(write: &Write) -> usize {
    match write {
        Write::Put(_, key, value) => key.len() + value.len(),
        Write::Delete(..) | Write::DeleteRange(..) => 0,
    }
}

fn flip(bytes: &Bytes, random: &mut impl Rng) -> Bytes {
    let mut flipped = bytes.to_vec();
    let at = random.random_range(0..flipped.len());
    flipped[at] ^= 1 << random.random_range(0..8);
    Bytes::from(flipped)
}
