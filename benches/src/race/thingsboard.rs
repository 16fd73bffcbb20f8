//! thingsboard-gateway: one process that reads Modbus devices and sends what they answer to a platform.
//!
//! - It is set up as well as its documentation allows: each device is read with one request, not one for each tag; what
//!   it has not delivered lies in SQLite; QoS 1, no limits to its rates, no statistics, nothing but errors in its log.
//! - It stands alone: when it is killed, whoever supervises it starts it again.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};
use simulator::history::History;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::platform::{Platform, WORD};
use super::polling::{DEVICES, Delivered, Side};
use super::rival;
use crate::machine::said;
use crate::plant::device_id;
use crate::process::{self, Usage};
use crate::world::{self, Bench};

const PROGRAM: &str = "thingsboard-gateway";
/// The one that is raced against. `scripts/peers` installs it.
const VERSION: &str = "3.8.5";
/// The kernel ends a killed process at once.
const KILLED: Duration = Duration::from_secs(5);

pub(super) struct ThingsBoard {
    platform: Platform,
    folder: PathBuf,
    program: PathBuf,
    gateway: Option<Child>,
}

/// What runs, in a line, if it is what is raced against.
pub(super) fn version() -> anyhow::Result<String> {
    const ASK: &str = "import importlib.metadata as m, platform as p; \
                       print(m.version('thingsboard-gateway'), m.version('pymodbus'), p.python_version())";
    let python = rival::find(PROGRAM)?.with_file_name("python3");
    let text = said(std::process::Command::new(python).args(["-c", ASK]));
    let text = text.with_context(|| format!("{PROGRAM} does not say its version"))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let [version, pymodbus, python] = words[..] else {
        anyhow::bail!("{PROGRAM} says of its version: {text}");
    };
    ensure!(version == VERSION, "{PROGRAM} is {version}, and {VERSION} is raced against");
    Ok(format!("{PROGRAM} {version}, pymodbus {pymodbus}, Python {python}"))
}

impl ThingsBoard {
    pub(super) async fn start(
        bench: &Bench,
        devices: &[SocketAddr],
        history: History,
    ) -> anyhow::Result<Self> {
        let program = rival::find(PROGRAM)?;
        let folder = bench.subfolder("race-thingsboard")?;
        let platform = Platform::start(history).await?;
        for name in ["data", "logs"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        let files = [
            ("tb_gateway.json", general(platform.address(), &folder)),
            ("modbus.json", modbus(devices)),
            ("logs.json", logs()),
        ];
        for (name, content) in files {
            std::fs::write(folder.join(name), content.to_string())?;
        }
        let mut thingsboard = Self { platform, folder, program, gateway: None };
        thingsboard.run()?;
        Ok(thingsboard)
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.join("output.log"))?;
        let mut command = Command::new(&self.program);
        // It takes no arguments; by this one a panic finds it.
        command.arg(self.folder.join("tb_gateway.json"));
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("TB_GW_CONFIG_DIR", &self.folder).env("TB_GW_LOGS_PATH", self.folder.join("logs"));
        command.current_dir(&self.folder).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.gateway = Some(command.spawn().with_context(|| format!("{PROGRAM} does not start"))?);
        Ok(())
    }

    async fn kill_it(&mut self) -> anyhow::Result<()> {
        let Some(mut gateway) = self.gateway.take() else { return Ok(()) };
        gateway.start_kill()?;
        timeout(KILLED, gateway.wait()).await.context("a killed process goes on")??;
        Ok(())
    }
}

impl Side for ThingsBoard {
    fn usage(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<Usage>>> {
        async move {
            let id = self.gateway.as_ref().and_then(Child::id).context("the gateway does not run")?;
            Ok(vec![process::usage(id)?])
        }
        .boxed()
    }

    fn poller(&mut self) -> BoxFuture<'_, anyhow::Result<usize>> {
        async { anyhow::Ok(0) }.boxed()
    }

    fn kill(&mut self, _poller: usize) -> BoxFuture<'_, anyhow::Result<()>> {
        self.kill_it().boxed()
    }

    fn start_again(&mut self, _poller: usize) -> BoxFuture<'_, anyhow::Result<()>> {
        async move { self.run() }.boxed()
    }

    fn destination_leaves(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            self.platform.leave().await;
            Ok(())
        }
        .boxed()
    }

    fn destination_returns(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        async move { Ok(self.platform.come_back().await?) }.boxed()
    }

    fn delivered(&mut self) -> anyhow::Result<Delivered> {
        if let Some(status) = self.gateway.as_mut().map(Child::try_wait).transpose()?.flatten() {
            let log = self.folder.join("output.log");
            anyhow::bail!("{PROGRAM} ended ({status}); its last words:\n{}", rival::last_words(&log));
        }
        self.platform.delivered()
    }

    fn end(mut self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>> {
        async move {
            self.kill_it().await?;
            world::remove(&self.folder)
        }
        .boxed()
    }
}

/// The general file. Remote configuration is off, with which it throws away what lies in SQLite at each connection (its
/// issue 2124).
fn general(platform: SocketAddr, folder: &Path) -> Value {
    json!({
        "thingsboard": {
            "host": platform.ip(), "port": platform.port(), "remoteShell": false, "remoteConfiguration": false,
            "statistics": { "enable": false }, "deviceFiltering": { "enable": false },
            "checkingDeviceActivity": { "checkDeviceInactivity": false },
            "maxPayloadSizeBytes": 65_536, "minPackSendDelayMS": 50, "minPackSizeToSend": 500,
            "security": { "type": "accessToken", "accessToken": "race" },
            "qos": 1, "reportStrategy": { "type": "ON_RECEIVED" },
        },
        // It wants a slash at the end.
        "storage": {
            "type": "sqlite", "data_file_path": format!("{}/", folder.join("data").display()),
            "messages_ttl_check_in_hours": 1, "messages_ttl_in_days": 7, "max_read_records_count": 1_000,
        },
        "grpc": { "enabled": false },
        "connectors": [{ "type": "modbus", "name": "Modbus", "configuration": "modbus.json" }],
    })
}

/// The devices. A range of addresses is read with one request and gives a sample for each of them.
fn modbus(devices: &[SocketAddr]) -> Value {
    let device = |(number, address): (usize, &SocketAddr)| {
        json!({
            "host": address.ip(), "port": address.port(), "type": "tcp", "method": "socket", "unitId": 1,
            "deviceName": device_id(number), "deviceType": "default",
            "timeout": 5, "byteOrder": "BIG", "wordOrder": "BIG",
            "retries": 3, "retryOnEmpty": true, "retryOnInvalid": true,
            "pollPeriod": DEVICES.period.as_millis() as u64, "connectAttemptTimeMs": 500,
            "connectAttemptCount": 5, "waitAfterFailedAttemptsMs": 30_000,
            "attributes": [], "attributeUpdates": [], "rpc": [],
            "timeseries": [{
                "tag": format!("{WORD}${{address}}"), "type": "16uint", "functionCode": 3, "objectsCount": 1,
                "address": format!("0-{}", DEVICES.registers - 1), "maxRegistersPerRequest": DEVICES.registers,
            }],
        })
    };
    let devices: Vec<Value> = devices.iter().enumerate().map(device).collect();
    json!({ "name": "Modbus", "master": { "slaves": devices } })
}

/// Nothing but errors: a library of its warns with every value, which costs it more than reading it.
fn logs() -> Value {
    json!({
        "version": 1, "disable_existing_loggers": false,
        "formatters": { "line": { "format": "%(asctime)s %(levelname)s %(name)s %(message)s" } },
        "handlers": { "console": {
            "class": "logging.StreamHandler", "formatter": "line", "level": "ERROR", "stream": "ext://sys.stdout",
        } },
        "root": { "level": "ERROR", "handlers": ["console"] },
        "loggers": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_with_one_request_whose_registers_have_names() {
        let text = modbus(&[SocketAddr::from(([127, 0, 0, 1], 5_020))]).to_string();
        for part in [
            r#""host":"127.0.0.1""#,
            r#""tag":"word_${address}""#,
            r#""address":"0-49""#,
            r#""maxRegistersPerRequest":50"#,
            r#""deviceName":"bench/machine-000""#,
            r#""pollPeriod":1000"#,
        ] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
}
