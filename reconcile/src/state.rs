//! What only the queue knows: how far raw lines are written. The program `clickmill` is asked, so that this one needs no queue.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, bail};
use clickmill_model::{Offset, Partition, RawPartition, Timestamp};
use serde::Deserialize;

use crate::files::Written;

/// The program that knows the queue.
const CLICKMILL: &str = "clickmill";

/// How `clickmill` is started: with the same configuration as this program.
#[derive(Debug, Clone)]
pub struct Clickmill {
    program: PathBuf,
    common: Vec<String>,
}

/// It refused the configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

#[derive(Deserialize)]
struct Answer {
    raw: Vec<OfPartition>,
    late: Vec<OfLate>,
}

#[derive(Deserialize)]
struct OfPartition {
    topic: String,
    partition: u32,
    counted: u64,
    next: u64,
    last: Option<Last>,
    behind: bool,
}

#[derive(Deserialize)]
struct Last {
    offset: u64,
    arrival_micros: i64,
}

#[derive(Deserialize)]
struct OfLate {
    partition: u32,
    end: u64,
    behind: bool,
}

impl Clickmill {
    /// The one beside this program, or the first on the path, with these flags for its configuration.
    pub fn find(common: Vec<String>) -> anyhow::Result<Self> {
        let name = format!("{CLICKMILL}{}", std::env::consts::EXE_SUFFIX);
        let beside = std::env::current_exe().ok().and_then(|this| Some(this.parent()?.join(&name)));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut all = beside.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join(&name)));
        let program = all.find(|path| path.is_file());
        let program = program.context(
            "the program clickmill is neither beside this one nor on the path: it says how far raw lines are written",
        )?;
        Ok(Self { program, common })
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(args).args(&self.common).stdin(std::process::Stdio::null());
        command.output().with_context(|| format!("starting {}", self.program.display()))
    }

    /// How far raw lines are written, by raw partition. An error where lines that are counted are not, unless it shall wait for them.
    pub fn written(&self, wait: bool) -> anyhow::Result<BTreeMap<RawPartition, Written>> {
        let output = self.run(if wait { &["written", "--wait"] } else { &["written"] })?;
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().rsplit("clickmill: ").next().unwrap_or_default().to_owned();
        match output.status.code() {
            Some(0) => {}
            Some(2) => return Err(Refused(said).into()),
            _ => bail!("asking clickmill how far raw lines are written: {said}"),
        }
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .context("clickmill's answer is not understood: are both programs of the same version?")?;
        if let Some(behind) = answer.raw.iter().find(|raw| raw.behind) {
            bail!(
                "not all raw lines are in Parquet yet: {}/{} is counted up to offset {}, and written up to {}; give --wait to wait for it",
                behind.topic,
                behind.partition,
                behind.counted,
                behind.next
            );
        }
        if let Some(late) = answer.late.iter().find(|late| late.behind) {
            bail!(
                "not all late lines are in Parquet yet: partition {} ends at offset {}; give --wait to wait for it",
                late.partition,
                late.end
            );
        }
        let written = answer.raw.into_iter().map(|raw| {
            let last = raw.last.map(|last| (Offset(last.offset), Timestamp::from_micros(last.arrival_micros)));
            (RawPartition::new(&raw.topic, Partition(raw.partition)), Written { next: Offset(raw.next), last })
        });
        Ok(written.collect())
    }

    /// Recalculates the minutes `[from, to)`, without raw files that are damaged or missing where that was asked.
    pub fn recalculate(
        &self,
        from: clickmill_model::Minute,
        to: clickmill_model::Minute,
        skip_damaged: bool,
    ) -> anyhow::Result<()> {
        let (from, to) = (from.to_string(), to.to_string());
        let mut args = vec!["recalc", "--from", &from, "--to", &to];
        if skip_damaged {
            args.push("--skip-damaged");
        }
        let output = self.run(&args)?;
        // Status 4: done without files that are damaged or missing.
        let is_done = output.status.success() || skip_damaged && output.status.code() == Some(4);
        if !is_done {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("recalculating {from} to {to}: {}", said.trim().rsplit("clickmill: ").next().unwrap_or_default());
        }
        Ok(())
    }
}
