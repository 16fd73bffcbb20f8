//! The destination of a run, on a host of its own, and how nodes deliver to it.
//!
//! - What forwards is the product's, with its cursors, pauses and acknowledgements; what is brought from here is the last step,
//!   in which a delivery goes over a simulated connection and an answer comes back.
//! - It is the receiver that says what it was sent: the judge compares it with what is in the log.
//! - It is no good receiver: it is slow, hangs up before it has taken anything, and hangs up when it has.
//!
//! A delivery is the length of a text in four bytes, and the text: the cursors before and behind it in one line, then each
//! record in one, behind the cursor where it stands. The answer is one byte.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use destinations::{Answering, AnyDestination, Builder, DeliverError, Foreign, Receipt};
use futures::future::{FutureExt as _, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt as _};
use model::{Cursor, Delivery, Permit, plant};
use rand::Rng as _;
use runtime::random::{Random, generator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use turmoil::net::{TcpListener, TcpStream};

use crate::world::{ARCHIVE, Shared, branch, name};

const PORT: u16 = 443;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it takes, in milliseconds: mostly, and at most. A node that has given up hears nothing of it.
const USUALLY: u64 = 10;
const AT_MOST: u64 = 1_500;

/// What it does with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Takes,
    HangsUp,
    TakesAndHangsUp,
}

/// Builds what delivers to it, whatever the plant says.
#[derive(Debug)]
pub(crate) struct SimBuilder;

impl Builder for SimBuilder {
    fn build(&self, _: &plant::Destination) -> Result<AnyDestination, DeliverError> {
        Ok(AnyDestination::Foreign(Box::new(SimDestination)))
    }
}

/// Delivers over a connection of its own each time.
#[derive(Debug)]
struct SimDestination;

impl Foreign for SimDestination {
    fn deliver<'a>(&'a mut self, delivery: &'a Delivery, permit: &'a dyn Permit) -> Answering<'a, Receipt> {
        Box::pin(async move {
            permit.check()?;
            let unavailable = |reason: String| DeliverError::Unavailable { reason, retry_after: None };
            let answered = timeout(PATIENCE, post(text(delivery))).await;
            answered
                .map_err(|_| unavailable("no answer".to_owned()))?
                .map_err(|error| unavailable(error.to_string()))?;
            Ok(Receipt { acknowledged: delivery.upto, taken: delivery.upto, rejected: Vec::new() })
        })
    }
}

async fn post(text: String) -> io::Result<()> {
    let host = name(ARCHIVE);
    let mut stream = TcpStream::connect((host.as_str(), PORT)).await?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.read_u8().await.map(drop)
}

fn text(delivery: &Delivery) -> String {
    let mut text = format!("{} {}", delivery.after, delivery.upto);
    for record in &delivery.records {
        let written = destinations::json::record(record);
        text.push_str(&format!("\n{} {}", record.key().before(), String::from_utf8_lossy(&written)));
    }
    text
}

/// What a delivery says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) after: Cursor,
    pub(crate) upto: Cursor,
    /// Each record, where it stands.
    pub(crate) records: Vec<(Cursor, String)>,
}

/// Reads a delivery; `None` if it is none.
fn read(text: &str) -> Option<Delivered> {
    let mut lines = text.lines();
    let (after, upto) = lines.next()?.split_once(' ')?;
    let record = |line: &str| {
        let (at, record) = line.split_once(' ')?;
        Some((at.parse::<Cursor>().ok()?, record.to_owned()))
    };
    Some(Delivered {
        after: after.parse().ok()?,
        upto: upto.parse().ok()?,
        records: lines.map(record).collect::<Option<_>>()?,
    })
}

/// The receiver at work.
struct Receiver {
    shared: Shared,
    random: RefCell<Random>,
}

/// Serves whoever connects, for the whole run.
pub(crate) async fn run(shared: Shared) -> turmoil::Result {
    let seed = shared.borrow_mut().seed;
    let receiver = Receiver { shared, random: RefCell::new(generator(Some(branch(seed, 6)))) };
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let mut at_work: FuturesUnordered<LocalBoxFuture<'_, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = at_work.next() => {}
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                at_work.push(receiver.serve(stream).boxed_local());
            }
        }
    }
}

impl Receiver {
    async fn serve(&self, stream: TcpStream) {
        if let Err(error) = self.take(stream).await {
            self.shared.borrow_mut().note(Some(ARCHIVE), format!("a delivery breaks off: {error}"));
        }
    }

    async fn take(&self, mut stream: TcpStream) -> io::Result<()> {
        let length = stream.read_u32().await?;
        let mut bytes = vec![0; length as usize];
        stream.read_exact(&mut bytes).await?;
        let (manner, takes) = self.draw();
        sleep(takes).await;
        if manner == Manner::HangsUp {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.keep(&String::from_utf8_lossy(&bytes));
        if manner == Manner::TakesAndHangsUp {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        stream.write_u8(1).await
    }

    fn draw(&self) -> (Manner, Duration) {
        let mut random = self.random.borrow_mut();
        let manner = match random.random_range(0..100) {
            0..4 => Manner::HangsUp,
            4..8 => Manner::TakesAndHangsUp,
            _ => Manner::Takes,
        };
        let most = if random.random_bool(0.03) { AT_MOST } else { USUALLY };
        (manner, Duration::from_millis(random.random_range(1..=most)))
    }

    fn keep(&self, text: &str) {
        let mut world = self.shared.borrow_mut();
        let Some(delivered) = read(text) else {
            return world.violated("the destination was sent what is no delivery");
        };
        let Delivered { after, upto, ref records } = delivered;
        let said = format!("takes {} records from {after} to {upto}", records.len());
        world.note(Some(ARCHIVE), said);
        let received = world.account.received(delivered);
        world.check(received);
    }
}

#[cfg(test)]
mod tests {
    use model::{Ordinal, Position};

    use super::*;

    #[test]
    fn what_is_sent_is_read_back_and_nothing_else() {
        let at = |position, ordinal| Cursor { position: Position(position), ordinal: Ordinal(ordinal) };
        let records = vec![(at(5, 1), "{\"key\": \"a b\"}".to_owned())];
        let expected = Delivered { after: at(5, 0), upto: at(6, 0), records };
        assert_eq!(read("5/0 6/0\n5/1 {\"key\": \"a b\"}"), Some(expected));
        assert_eq!(read("5/0"), None);
        assert_eq!(read("5/0 6/0\nrecord"), None);
    }
}
