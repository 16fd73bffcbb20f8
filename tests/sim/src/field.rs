//! The device of a run, on a host of its own, and how nodes reach it.
//!
//! - It speaks Modbus TCP over simulated connections; above them everything is the product's: the plan, the protocol library,
//!   the fenced stream, the owner of the socket.
//! - It says who asked it what, and when: two machines that ask at one time are found here. Each answer holds its own number,
//!   so that what is in the log is traced back to one read.
//! - It is no good device: it is slow, refuses, keeps silent and hangs up. It works on a request for no longer than an operation
//!   may usually take, because a lease promises no more, and stops when the connection ends.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use drivers::Silence;
use drivers::modbus::{DeviceStream, Dialler, Dialling};
use futures::future::{FutureExt as _, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt as _};
use rand::Rng as _;
use runtime::random::{Random, generator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use turmoil::net::{TcpListener, TcpStream};

use crate::world::{MACHINES, Shared, branch, name};

/// Where it listens.
pub(crate) const PORT: u16 = 502;
/// How long it takes, in milliseconds: mostly, and at most.
const USUALLY: u64 = 20;
const AT_MOST: u64 = 120;
/// Bytes of a request: the header with its transaction, the function, an address and a count.
const REQUEST: usize = 12;
/// "Server device failure".
const FAILURE: u8 = 4;

/// What it does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Answers,
    Refuses,
    KeepsSilent,
    HangsUp,
}

/// Connects to it.
#[derive(Debug)]
pub(crate) struct SimDialler;

impl Dialler for SimDialler {
    fn dial<'a>(&'a self, host: &'a str, port: u16, cap: Duration) -> Dialling<'a> {
        Box::pin(async move {
            match timeout(cap, TcpStream::connect((host, port))).await {
                Ok(Ok(stream)) => Ok(Box::new(stream) as Box<dyn DeviceStream>),
                Ok(Err(error)) => Err(Silence::Unreachable { reason: error.to_string() }),
                Err(_elapsed) => Err(Silence::ConnectTimeout { after: cap }),
            }
        })
    }
}

/// The device at work.
struct Device {
    shared: Shared,
    random: RefCell<Random>,
}

/// Serves whoever connects, for the whole run.
pub(crate) async fn run(shared: Shared) -> turmoil::Result {
    let seed = shared.borrow_mut().seed;
    let device = Device { shared, random: RefCell::new(generator(Some(branch(seed, 5)))) };
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let mut at_work: FuturesUnordered<LocalBoxFuture<'_, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = at_work.next() => {}
            accepted = listener.accept() => {
                let (stream, from) = accepted?;
                if let Some(machine) = machine_at(from.ip()) {
                    at_work.push(device.serve(stream, machine).boxed_local());
                }
            }
        }
    }
}

/// The machine that has an address.
fn machine_at(address: IpAddr) -> Option<usize> {
    let host = turmoil::reverse_lookup(address)?;
    (0..MACHINES).find(|machine| name(*machine) == host)
}

impl Device {
    /// Answers what comes over one connection, until it ends.
    async fn serve(&self, mut stream: TcpStream, machine: usize) {
        let mut request = [0; REQUEST];
        while stream.read_exact(&mut request).await.is_ok() {
            let (manner, takes) = self.draw();
            let number = self.begins(machine);
            let answered = self.work(&mut stream, &request, number, (manner, takes)).await;
            let is_read = manner == Manner::Answers && answered.is_ok();
            self.shared.borrow_mut().account.ends(number, is_read);
            if manner == Manner::HangsUp || answered.is_err() {
                return;
            }
        }
    }

    fn draw(&self) -> (Manner, Duration) {
        let mut random = self.random.borrow_mut();
        let manner = match random.random_range(0..100) {
            0..2 => Manner::Refuses,
            2..4 => Manner::KeepsSilent,
            4..6 => Manner::HangsUp,
            _ => Manner::Answers,
        };
        let most = if random.random_bool(0.1) { AT_MOST } else { USUALLY };
        (manner, Duration::from_millis(random.random_range(1..=most)))
    }

    fn begins(&self, machine: usize) -> u32 {
        let mut world = self.shared.borrow_mut();
        let (number, checked) = world.account.asks(machine);
        world.check(checked);
        number
    }

    /// Works on a request, and answers it if it does. Fails if the connection ends meanwhile.
    async fn work(
        &self,
        stream: &mut TcpStream,
        request: &[u8; REQUEST],
        number: u32,
        (manner, takes): (Manner, Duration),
    ) -> io::Result<()> {
        tokio::select! {
            biased;
            // One request at a time: whatever comes now is the end of the connection, or breaks it.
            spoken = stream.read_u8() => return Err(spoken.err().unwrap_or(io::ErrorKind::InvalidData.into())),
            () = sleep(takes) => {}
        }
        match manner {
            Manner::Answers => stream.write_all(&answer(request, number)).await,
            Manner::Refuses => stream.write_all(&refusal(request)).await,
            Manner::KeepsSilent | Manner::HangsUp => Ok(()),
        }
    }
}

/// The words that were asked for: the first two hold the number, the high half first.
fn answer(request: &[u8; REQUEST], number: u32) -> Vec<u8> {
    let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
    let (first, count) = (word(8), word(10));
    let halves = [(number >> 16) as u16, number as u16];
    let value = |address: u16| halves.get(usize::from(address)).copied().unwrap_or(0);
    let words = (first..first.saturating_add(count)).flat_map(|address| value(address).to_be_bytes());
    let words: Vec<u8> = words.collect();
    let mut body = vec![request[7], words.len() as u8];
    body.extend(words);
    frame(request, &body)
}

/// An exception.
fn refusal(request: &[u8; REQUEST]) -> Vec<u8> {
    frame(request, &[request[7] | 0x80, FAILURE])
}

/// The header of the request, with the length of what follows: the unit and `body`.
fn frame(request: &[u8; REQUEST], body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 1) as u16;
    let mut frame = vec![request[0], request[1], 0, 0];
    frame.extend(length.to_be_bytes());
    frame.push(request[6]);
    frame.extend(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Transaction 7, unit 1, two holding registers from the first on.
    const ASKED: [u8; REQUEST] = [0, 7, 0, 0, 0, 6, 1, 3, 0, 0, 0, 2];

    #[test]
    fn an_answer_holds_its_number_and_a_refusal_its_reason() {
        assert_eq!(answer(&ASKED, 0x0001_0203), [0, 7, 0, 0, 0, 7, 1, 3, 4, 0, 1, 2, 3]);
        assert_eq!(refusal(&ASKED), [0, 7, 0, 0, 0, 3, 1, 0x83, FAILURE]);
    }
}
