//! Runs one script against a ledger.
//!
//! A script is blocks, comments (`#`) and blank lines. A block is commands, one a line, then `----`, then what they
//! print, up to a blank line. Lines that begin with two spaces continue the command before.
//!
//! ```text
//! found
//! membership a b c [voters=1+2,2+3]              (`-` is a member that is gone; without voters all vote)
//! blank
//! lead TERM node=1 name=a cause=failover [leaderless=TIME]
//! configure [base=N] [elapsed=GROUP:TIME,…] [discard=NAME,…]
//!   device ID [off]
//!   group ID period=TIME tags=a,b [off]          (of the device above, which is then polled)
//!   destination ID [optional] [oldest]
//! stage NAME part=N of=N                         (a part of the plant below, which is given once)
//! configure-staged NAME [base=N] [elapsed=…] [discard=…]
//! poll GROUP grid=N slots=FIRST-LAST             (an entry for each slot)
//! append polled GROUP grid=N slot=N [skipped=CAUSE] [count=N] [source=TIME] [ + pushed SESSION seq=N … ]
//! missed GROUP grid=N last=N cause=CAUSE
//! reclock [elapsed=GROUP:TIME,…]
//! disable DEVICE [until=TIME] [elapsed=…] | enable DEVICE [until=TIME]
//! ack DESTINATION next=POSITION/ORDINAL [rejected=POSITION/ORDINAL,…] [bytes=N]
//! truncate below=POSITION [overrun=DESTINATION:SAMPLES,…]
//! pause DESTINATION | release DESTINATION | retry DESTINATION [POSITION/ORDINAL …]
//! settle DESTINATION [accepted=POSITION/ORDINAL,…] [refused=POSITION/ORDINAL,…]
//! drain NODE | undrain NODE
//! event SEVERITY SUBJECT TEXT…
//! alarm KIND raised|cleared [subject=NAME] TEXT…
//! pass TIME                                      (with a command of the leader every ten minutes)
//! resume GROUP now=TIME [elapsed=TIME | at-least=TIME]   (what a new leader does; changes nothing)
//! show grids|effects|cursors|horizon|sessions|reigns|revisions|quarantine|standing|events|alarms|
//!   node-tags|staged|account
//! ```
//!
//! Every command takes `at=TIME`, the proposer's wall clock in seconds since 1970 (by default that of the command
//! before), and `term=N` (by default that of the last `lead`).

mod arguments;
mod machine;
mod plant;
mod show;

use std::path::{Path, PathBuf};

use machine::Machine;

/// Where the scripts are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

/// Runs a script and compares, or writes, what it prints.
pub(crate) fn run(name: &str) {
    let path = folder().join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let mut machine = Machine::default();
    let mut seen = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            seen += &format!("{line}\n");
            continue;
        }
        let mut commands = vec![line.to_owned()];
        for line in lines.by_ref().take_while(|line| *line != "----") {
            match line.strip_prefix("  ") {
                Some(_) => *commands.last_mut().expect("it holds the first") += &format!("\n{line}"),
                None => commands.push(line.to_owned()),
            }
        }
        while lines.next_if(|line| !line.is_empty()).is_some() {}
        for command in &commands {
            seen += &format!("{command}\n");
        }
        seen += "----\n";
        for command in &commands {
            seen += &machine.run(command);
        }
    }
    machine.finish();
    assert!(seen.contains("----"), "{name} holds no command");
    if std::env::var_os("UPDATE_SCRIPTS").is_some() {
        std::fs::write(&path, seen).expect("the script can be written");
        return;
    }
    if let Some((number, (expected, found))) =
        (1..).zip(text.lines().zip(seen.lines())).find(|(_, (expected, found))| expected != found)
    {
        panic!(
            "{name}, line {number}:\n expected: {expected}\n     seen: {found}\n\nall that was seen:\n{seen}"
        );
    }
    assert_eq!(text, seen, "{name}: something is missing at the end");
}
