//! What the registers of a simulated device hold.

use std::net::SocketAddr;

use model::plant::address::Table;

/// A read request, as its values may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// Where it came from.
    pub peer: SocketAddr,
    /// The unit it is for.
    pub unit: u8,
    /// The table.
    pub table: Table,
    /// The first register or bit, from zero.
    pub start: u16,
    /// How many.
    pub count: u16,
    /// Which read request of this unit it is, from 1.
    pub ordinal: u64,
}

/// What the registers of a device hold.
pub trait RegisterSource: Send + Sync + 'static {
    /// The word at `address`, or `None` where there is none. A bit is on where the word is not 0.
    fn word(&self, request: &ReadRequest, address: u16) -> Option<u16>;
}

impl<F> RegisterSource for F
where
    F: Fn(&ReadRequest, u16) -> Option<u16> + Send + Sync + 'static,
{
    fn word(&self, request: &ReadRequest, address: u16) -> Option<u16> {
        self(request, address)
    }
}

/// Registers from which each value can be traced to the request that read it, in every table:
///
/// | register | holds |
/// |---|---|
/// | 0, 1 | the request's ordinal, `u32`, high word first |
/// | 2 | the device's number |
/// | 3 | the unit id |
/// | 4, 5 | sin(ordinal / 50), `f32`, high word first |
/// | n from 6 | n + ordinal, modulo 65536 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The device's number.
    pub device: u16,
    /// How many registers there are; beyond is an illegal address.
    pub registers: u16,
}

impl RegisterSource for Proof {
    fn word(&self, request: &ReadRequest, address: u16) -> Option<u16> {
        let ordinal = request.ordinal as u32;
        let sine = ((request.ordinal as f64 / 50.0).sin() as f32).to_bits();
        (address < self.registers).then_some(match address {
            0 => (ordinal >> 16) as u16,
            1 => ordinal as u16,
            2 => self.device,
            3 => u16::from(request.unit),
            4 => (sine >> 16) as u16,
            5 => sine as u16,
            address => address.wrapping_add(ordinal as u16),
        })
    }
}
