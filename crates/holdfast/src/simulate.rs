//! `holdfast simulate`: the demo's plant alone, for nodes that run elsewhere: devices, pushers, a receiver, and the
//! account of what they saw.
//!
//! - It knows nothing of what is done to the nodes: no gap and no election counts as unexplained.
//! - Told to stop, it ends what is pushed, takes its devices out of service for a while, waits until everything is
//!   delivered, and exits by the account. Nothing else stands still long enough to be counted.
//! - An account is one life's. What an earlier life in the same folder sent or answered is foreign to it, and it says
//!   so.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use simulator::account::{ClockSet, Verdict, count_other_rows, count_rows, enter_files};
use simulator::field::Field;
use simulator::history::monotonic_ns;
use simulator::nodes::relay::carry_each;
use simulator::plant::Shape;
use tls::Keeper;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::cli::{self, Access, GlobalArgs};
use crate::demo::{print, show, told_twice};

/// In the folder: the plant document, and the account at the end.
const DOCUMENT: &str = "plant.toml";
const ACCOUNT: &str = "account.json";
/// How often it says how it goes.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How often it looks whether everything is delivered.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Until everything is delivered at the end, to each kind of destination.
const DRAINING: Duration = Duration::from_secs(30);
/// How long a node may take to let a pusher in.
const CONNECT: Duration = Duration::from_secs(2);
/// For how long devices are out of service at the end; they come back by themselves.
const REST: Duration = Duration::from_secs(300);

/// Run the demo's plant alone, for nodes elsewhere: devices, pushers, a receiver, an account.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Run the demo's plant alone, for nodes that run elsewhere: three Modbus devices, two pushers, an HTTP \
    receiver. --endpoints and certificates (of an admin) say where pushers push, and who takes the devices out of \
    service in the end.\n\n\
    The folder gets the plant document (plant.toml), which is yours to apply; the history of everything that was seen; \
    what the CSV destination writes, so that all nodes must have this folder at the same path; and, when it is told to \
    stop, the account (account.json). Stopping takes up to 90s; the exit code is 0 only if the account adds up.\n\n\
    Example:\n  holdfast simulate --into plant --listen 0.0.0.0:5020 --advertise bench.example \
    --endpoints gateway-a:7611"
)]
pub(crate) struct SimulateArgs {
    /// The folder; it is made.
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// Where the first device listens; the others and then the receiver at the ports after it.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:5020")]
    listen: SocketAddr,
    /// The host under which nodes reach it [default: the address of --listen].
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
}

/// Runs the plant to its exit code.
pub(crate) async fn run(global: GlobalArgs, args: SimulateArgs) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    tokio::select! {
        ended = Box::pin(perform(&global, args, &stop)) => ended,
        () = told_twice(&stop) => Err(anyhow!("ended at once")),
    }
}

async fn perform(
    global: &GlobalArgs,
    args: SimulateArgs,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let access = cli::reached_by(global)?;
    let folder = std::path::absolute(&args.into)?;
    let document = folder.join(DOCUMENT);
    let has_lived = document.exists();
    let field = Field::start_at(&folder, args.listen).await.context("the plant does not start")?;
    if has_lived {
        let doubt = "an earlier life of this plant is foreign to this account; begin with an empty folder";
        field.account.lock().doubt(doubt);
    }
    let host = args.advertise.unwrap_or_else(|| match args.listen {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    });
    std::fs::write(&document, field.document_at(&host, Shape::default()))
        .with_context(|| document.display().to_string())?;
    print(&format!("the plant is {}; apply it with: holdfast config apply", document.display()));

    let mut doors = JoinSet::new();
    let endpoints = open_doors(access, &mut doors).await.context("the nodes have no usable address")?;
    field.push_to(&endpoints).await;
    let mut says = interval(SAY_EVERY);
    says.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(says.tick()).await.is_some() {
        print(&how_it_goes(&field));
    }
    settle(global, &field, &folder.join(ACCOUNT)).await
}

fn how_it_goes(field: &Field) -> String {
    let figures = field.account.lock().figures();
    format!(
        "delivered {}  pending {}  lost {}  slots in gaps {}  overlaps {}",
        figures.delivered, figures.pending, figures.lost, figures.slots_in_gaps, figures.overlaps
    )
}

/// Ends what is pushed and read, waits until all of it is delivered, and settles the account.
async fn settle(global: &GlobalArgs, field: &Field, report_to: &Path) -> anyhow::Result<ExitCode> {
    print("settling: pushers end, devices are taken out of service");
    field.stop_pushing().await;
    for device in &field.plant.devices {
        if let Err(error) = cli::disable(global, &device.id, "the simulated plant ends", REST).await {
            field.account.lock().doubt(format!("{} is still read: {error}", device.id));
        }
    }
    let is_delivered = || {
        let figures = field.account.lock().figures();
        figures.pending == 0 && figures.lost == 0
    };
    if !comes(is_delivered).await {
        field.account.lock().doubt("not everything was delivered in time");
    }
    let delivered = field.account.lock().figures().delivered;
    let files = field.files();
    let is_filed = || {
        // What comes later may be in a file that is not finished any more.
        let until_ns = monotonic_ns();
        let others = field.account.lock().gaps_and_openings();
        let is_there = count_rows(&files).unwrap_or_default() >= delivered
            && count_other_rows(&files).unwrap_or_default() >= others;
        if is_there {
            field.account.lock().rows_are_due(until_ns);
        }
        is_there
    };
    if !comes(is_filed).await {
        field.account.lock().doubt("not everything stood in files in time");
    }
    let conflicts = field.conflicts().await;
    let report = {
        let mut account = field.account.lock();
        // Whatever was done to the nodes, nobody has said it here.
        account.disturbed(0, monotonic_ns());
        // Nor do they share this machine's clock, for all that is known.
        account.clock_was_set(ClockSet { node: None, began_ns: 0, ended_ns: u64::MAX });
        account.conflicted(conflicts);
        if let Err(error) = enter_files(&files, &mut account) {
            account.doubt(format!("the CSV files cannot be read: {error}"));
        }
        account.settle()
    };
    show(&report, field);
    std::fs::write(report_to, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| report_to.display().to_string())?;
    Ok(if report.verdict == Verdict::Pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a condition comes to hold in time.
async fn comes(holds: impl Fn() -> bool) -> bool {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Instant::now() + DRAINING;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        looks.tick().await;
    }
    true
}

/// Where pushers push: at the nodes, or, where these speak TLS, at doors of this process before them.
async fn open_doors(access: Access, doors: &mut JoinSet<()>) -> anyhow::Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    for name in access.endpoints {
        let address = match (&access.keeper, name.strip_prefix("http://")) {
            (_, Some(plaintext)) => plaintext.to_owned(),
            (None, None) => name,
            (Some(keeper), None) => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                let address = listener.local_addr()?.to_string();
                let node = name.strip_prefix("https://").unwrap_or(&name).to_owned();
                let keeper = keeper.clone();
                doors.spawn(carry_each(listener, move |near| carry(near, keeper.clone(), node.clone())));
                address
            }
        };
        endpoints.push(Endpoint::from_shared(format!("http://{address}"))?);
    }
    Ok(endpoints)
}

/// Lets whoever connects speak to a node under our certificate. Who is not let in finds the connection closed, as it would
/// without a door.
async fn carry(mut near: TcpStream, keeper: Keeper, node: String) -> io::Result<()> {
    let connecting = async {
        let far = TcpStream::connect(&*node).await?;
        far.set_nodelay(true)?;
        keeper.connect_api(far).await
    };
    let (mut far, _) = timeout(CONNECT, connecting).await??;
    near.set_nodelay(true)?;
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
