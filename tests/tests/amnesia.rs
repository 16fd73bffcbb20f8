//! A node whose disk forgot what the node had acknowledged: it stays up and says so, the others name it, and it is replaced.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::nodes::{Nodes, code, refused_with, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wire::proto::v1 as pb;

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

/// The status line and the body of an answer of a health listener.
async fn get(listener: SocketAddr, path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect(listener).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

/// Makes the disk of a node forget a vote that the node has given since.
async fn forget(nodes: &mut Nodes, forgetful: usize, next_leader: usize) -> Result<()> {
    let (database, kept) = (nodes.node(forgetful).data.join("rocksdb"), nodes.folder().join("kept"));
    nodes.node_mut(forgetful).kill()?;
    copy(&database, &kept)?;
    nodes.start(forgetful)?;
    nodes.agreed().await?;
    let next = nodes.node(next_leader).name.clone();
    nodes.cli_done(&["leader", "transfer", "--to", &next, "--reason", "scenario"]).await?;
    nodes.agreed().await?;
    nodes.node_mut(forgetful).kill()?;
    fs::remove_dir_all(&database)?;
    copy(&kept, &database)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_memory_says_so_and_is_replaced() -> Result<()> {
    let mut nodes = Nodes::founded().await?;
    let leader = nodes.agreed().await?;
    let (forgetful, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let (name, address) = (nodes.node(forgetful).name.clone(), nodes.node(forgetful).peers);
    let old = nodes.members().await?.iter().find(|member| member.name == name).context("a member")?.id;
    let health = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let node_file = nodes.folder().join(format!("{name}.toml"));
    writeln!(fs::OpenOptions::new().append(true).open(node_file)?, "health = \"{health}\"")?;
    forget(&mut nodes, forgetful, third).await?;
    nodes.start(forgetful)?;

    // On its own ports.
    let command = format!("holdfast member replace {name} {name}={address}");
    let says = || async {
        let Err(refusal) = nodes.node(forgetful).status().await else { bail!("it takes itself for well") };
        let status = refusal.downcast_ref::<tonic::Status>().context("no status")?;
        ensure!(code(status) == "HF-4104" && status.message().ends_with(&command), "{status:?}");
        Ok(())
    };
    nodes.explain(until("its API says what happened and what to type", says).await)?;
    let (line, body) = get(health, "/readyz").await?;
    ensure!(line.contains("503") && body.contains("HF-4104"), "{line}: {body}");
    let (line, _) = get(health, "/healthz").await?;
    ensure!(line.contains("200"), "starting it again would not help: {line}");
    let drain = pb::DrainMemberRequest { name: name.clone(), reason: String::new() };
    refused_with(nodes.node(forgetful).client()?.drain_member(drain).await, "HF-4104")?;

    // On the others.
    let named = || async {
        let status = nodes.node(nodes.leading().await?).status().await?;
        let alarm = status.alarms.iter().find(|alarm| alarm.subject == name).context("no alarm")?;
        ensure!(alarm.text.contains("lost what it had acknowledged"), "{alarm:?}");
        let member = status.members.iter().find(|member| member.id == old).context("it is a member")?;
        ensure!(
            member.reach() == pb::member::Reach::Refused && member.reason.contains(&command),
            "{member:?}"
        );
        Ok(())
    };
    nodes.explain(until("the leader names it", named).await)?;
    let shown = nodes.cli_done(&["status"]).await?;
    ensure!(shown.contains(&name) && shown.contains(&command), "{shown}");
    ensure!(nodes.node_mut(forgetful).is_running(), "it stays up");

    // With its directory it is not taken back; emptied, it is.
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let too_early = nodes.cli(&words).await?;
    let said = String::from_utf8_lossy(&too_early.stderr).into_owned();
    ensure!(!too_early.status.success() && said.contains("HF-3111") && said.contains("empty"), "{said}");
    nodes.node_mut(forgetful).wipe()?;
    nodes.start(forgetful)?;
    let asks = || async {
        let log = nodes.node(forgetful).log();
        ensure!(log.matches(&command).count() > 1, "it does not ask to belong:\n{log}");
        Ok(())
    };
    nodes.explain(until("the emptied node asks to belong", asks).await)?;
    nodes.cli_done(&words).await?;
    let members = nodes.members().await?;
    ensure!(
        members.len() == 3 && members.iter().all(|member| member.voter && member.id != old),
        "{members:?}"
    );
    nodes.agreed().await?;
    Ok(())
}
