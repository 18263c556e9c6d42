//! `hive demo`: a real job on a fleet of its own. Every file of a folder becomes one task per
//! capability; the results are read back from the store, totalled, and may be checked by hand.
//!
//! What makes it resumable is in `manifest`, what makes it safe to repeat in `submit`.

mod abandon;
mod board;
mod follow;
mod live;
mod manifest;
mod report;
mod results;
mod submit;
mod walk;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hive_proto::v1::AgentPhase;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::args::{Capability, Demo};
use crate::connect::Client;
use crate::dev::{self, Fleet, Folder, Options, Signals, write_atomically};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::tasks::{self, Kind};
use crate::{clock, verbs};
use board::Board;
use follow::News;
use live::Live;
use manifest::Manifest;

/// More would outgrow what the control plane keeps of ended tasks (200k in a namespace), and early
/// results would be gone before they are read.
const MOST_TASKS: usize = 150_000;
/// News not yet applied; the watch waits when they are full.
const NEWS: usize = 1_024;

/// Runs the job.
pub(crate) async fn run(args: Demo) -> Result<(), Failure> {
    let folder = folder(&args.dir)?;
    let place = Folder::open(&args.data.join("fleet"))?;
    let data = place.root.parent().map_or_else(|| args.data.clone(), Path::to_owned);
    let data = data.canonicalize().unwrap_or(data);
    let Some(Plan { manifest, resumed, dropped }) = plan(&args, &folder, &data)? else {
        write_results(&data, &[])?;
        return output::line(&format!("Nothing to do: there are no files in {}.", folder.display()));
    };
    let manifest = Arc::new(manifest);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = Options {
        listen: any,
        ops_listen: any,
        sidecars: args.fleet.sidecars,
        slots: args.fleet.slots,
        ready_file: args.fleet.ready_file.clone(),
    };
    let mut signals = Signals::listen()?;
    output::say(&format!("starting one control plane and {} sidecars", args.fleet.sidecars));
    let early = || Failure::error("interrupted", "before the job could begin").next("run the same command again");
    let mut fleet = tokio::select! {
        fleet = Fleet::start(place, options) => fleet?,
        () = signals.next() => return Err(early()),
    };
    let mut say = |text: String| dev::notice(&text);
    let up = tokio::select! {
        result = fleet.ready(&mut say) => result,
        () = signals.next() => Err(early()),
    };
    let result = match up {
        Ok(()) => {
            if let (Some(job), Ok(client)) = (dropped, Client::new(&fleet.endpoint(), "", Duration::from_secs(20))) {
                tasks::spawn(Kind::Watcher, abandon::run(client, job));
            }
            job(&args, &data, &manifest, resumed, &mut fleet, &mut signals).await
        }
        Err(failure) => Err(failure),
    };
    output::say("stopping the fleet");
    fleet.stop(&mut signals, &mut say).await;
    result
}

/// The folder the job is about, absolute.
fn folder(dir: &Path) -> Result<PathBuf, Failure> {
    let bad = |why: String| {
        Failure::usage(format!("cannot take {} as the folder of the job", dir.display()), why)
            .next("name a folder with --dir DIR (make demo DIR=…)")
    };
    let folder = dir.canonicalize().map_err(|e| bad(e.to_string()))?;
    if !folder.is_dir() {
        return Err(bad("it is not a folder".to_owned()));
    }
    Ok(folder)
}

/// Where results are written, in the data folder.
const RESULTS: &str = "results.jsonl";

/// What to do.
struct Plan {
    manifest: Manifest,
    /// It was begun by an earlier run.
    resumed: bool,
    /// The job that this one takes the place of.
    dropped: Option<Uuid>,
}

/// The unfinished job of the folder, or a new one that is on disk when this returns; `None` if
/// there is nothing to do.
fn plan(args: &Demo, folder: &Path, data: &Path) -> Result<Option<Plan>, Failure> {
    let unreadable = |e: manifest::Error| {
        Failure::error(format!("cannot use the manifest {}", manifest::path(data).display()), detail(&e))
            .next("start over with `hive demo --fresh`")
    };
    let mut dropped = None;
    if args.fresh {
        // One that can't be read can't be ended either.
        dropped = manifest::unfinished(data, folder).ok().flatten().map(|manifest| manifest.job);
    } else if let Some(manifest) = manifest::unfinished(data, folder).map_err(unreadable)? {
        output::say(&format!(
            "resuming the unfinished job of {}: {} tasks, as planned when it began (--fresh starts over)",
            folder.display(),
            manifest.entries.len()
        ));
        return Ok(Some(Plan { manifest, resumed: true, dropped }));
    }
    let walked = walk::walk(folder, data).map_err(|e| {
        Failure::usage(format!("cannot read the folder {}", folder.display()), e).next("name another with --dir DIR")
    })?;
    tell(folder, &walked);
    let capabilities = if args.capability.is_empty() { Capability::ALL.to_vec() } else { unique(&args.capability) };
    let count = walked.files.len() * capabilities.len();
    if count > MOST_TASKS {
        return Err(Failure::usage(
            format!("{count} tasks are too many"),
            format!("the control plane keeps only so many results; at most {MOST_TASKS} are taken here"),
        )
        .next("choose a smaller folder, or fewer capabilities with --capability"));
    }
    if count == 0 {
        return Ok(None);
    }
    let results = data.join(RESULTS);
    if results.exists() {
        output::say("the last job is finished (or was another folder's); a new one begins");
        // Results of another job must not pass for this one's.
        std::fs::remove_file(&results)
            .map_err(|e| Failure::error(format!("cannot remove the old {}", results.display()), e))?;
    }
    let manifest = Manifest::plan(folder, &walked.files, &capabilities, clock::new_id);
    manifest.write(data).map_err(|e| {
        Failure::error(format!("cannot write the manifest {}", manifest::path(data).display()), detail(&e))
    })?;
    Ok(Some(Plan { manifest, resumed: false, dropped }))
}

fn detail(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn unique(capabilities: &[Capability]) -> Vec<Capability> {
    let mut unique = capabilities.to_vec();
    unique.sort();
    unique.dedup();
    unique
}

fn tell(folder: &Path, walked: &walk::Walked) {
    output::say(&format!("{} files in {} (.git and target skipped)", walked.files.len(), folder.display()));
    if walked.links + walked.special > 0 {
        output::say(&format!(
            "left out: {} symbolic links, {} pipes, sockets and devices",
            walked.links, walked.special
        ));
    }
    for (path, error) in walked.unreadable.iter().take(5) {
        output::say(&format!("cannot read the folder {}: {error}", output::printable(&path.to_string_lossy())));
    }
    if walked.unreadable.len() > 5 {
        output::say(&format!("… and {} more folders", walked.unreadable.len() - 5));
    }
}

fn interrupted(done: usize, total: usize) -> Failure {
    Failure::error("interrupted", format!("{done} of {total} tasks are done"))
        .next("run the same command again to go on where it stopped")
}

/// From the first submission to the report.
async fn job(
    args: &Demo,
    data: &Path,
    manifest: &Arc<Manifest>,
    resumed: bool,
    fleet: &mut Fleet,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let client = Client::new(&fleet.endpoint(), "", Duration::from_secs(20))?;
    let mut board = Board::new(manifest.entries.iter().map(|entry| entry.task_id.to_string()));
    let (sender, news) = mpsc::channel(NEWS);
    let watchers = [
        tasks::spawn(Kind::Watcher, follow::tasks(client.clone(), submit::labels(manifest.job), sender.clone())),
        tasks::spawn(Kind::Watcher, follow::agents(client.clone(), sender)),
    ];
    let mut live = Live::new(clock::now());
    let ended = drive(args, &client, manifest, resumed, fleet, signals, &mut board, &mut live, news).await;
    for watcher in watchers {
        watcher.abort();
    }
    let run = ended?;

    let rows = results::read(&client, manifest).await?;
    write_results(data, &results::lines(&rows).map_err(|e| Failure::error("cannot write results as JSON", e))?)?;
    // Only now: whoever dies before it reads the results again.
    manifest::complete(data).map_err(|e| Failure::error("cannot mark the job as complete", detail(&e)))?;
    output::line(&format!("\n{}", report::report(&rows, &manifest.folder, data, run)))
}

fn write_results(data: &Path, lines: &[u8]) -> Result<(), Failure> {
    let path = data.join(RESULTS);
    write_atomically(&path, lines).map_err(|e| Failure::error(format!("cannot write {}", path.display()), e))
}

/// Submits, follows and shows until every task is terminal.
#[expect(clippy::too_many_arguments, reason = "the loop that owns everything a job has")]
async fn drive(
    args: &Demo,
    client: &Client,
    manifest: &Arc<Manifest>,
    resumed: bool,
    fleet: &mut Fleet,
    signals: &mut Signals,
    board: &mut Board,
    live: &mut Live,
    mut news: mpsc::Receiver<News>,
) -> Result<report::Run, Failure> {
    let started = clock::now();
    let mut submitting = None;
    let mut submitted = false;
    let mut done_before = 0;
    let mut agents = HashMap::new();
    let mut stall = Stall::new(started);
    let mut tick = tokio::time::interval(live.period());
    loop {
        if submitted && board.is_done() {
            live.draw(board, clock::now());
            let ended = board.counts().done() - done_before;
            return Ok(report::Run { took: clock::now().duration_since(started), ended });
        }
        tokio::select! {
            item = news.recv() => match item {
                Some(News::Task(report)) => if board.apply(report) { stall.moved(clock::now()) },
                Some(News::Synced) if submitting.is_none() && !submitted => {
                    done_before = board.counts().done();
                    live.forget();
                    if resumed {
                        live.notice(&format!("{done_before} of {} tasks were done before", board.total()));
                    }
                    let unknown = (0..manifest.entries.len())
                        .filter(|place| !board.is_known(&manifest.entries[*place].task_id.to_string()))
                        .collect();
                    let work = submit::run(client.clone(), manifest.clone(), unknown);
                    submitting = Some(tasks::spawn(Kind::Watcher, work));
                }
                Some(News::Synced) => {}
                Some(News::Agent(id, phase)) => agent(board, live, &mut agents, id, phase),
                None => return Err(Failure::error("the job can't be followed", "both watches ended")),
            },
            result = finished(&mut submitting), if submitting.is_some() => {
                submitting = None;
                submitted = true;
                result?;
            }
            text = fleet.next() => live.notice(&text),
            _ = tick.tick() => {
                let now = clock::now();
                live.draw(board, now);
                stall.check(now, args.stall)?;
            }
            () = signals.next() => {
                if let Some(work) = &submitting {
                    work.abort();
                }
                return Err(interrupted(board.counts().done(), board.total()));
            }
        }
    }
}

async fn finished(work: &mut Option<tokio::task::JoinHandle<Result<(), Failure>>>) -> Result<(), Failure> {
    match work {
        Some(work) => work.await.unwrap_or_else(|e| Err(Failure::error("submitting broke off", e))),
        None => std::future::pending().await,
    }
}

/// Takes note of an agent's phase, and tells when it changed.
fn agent(board: &mut Board, live: &mut Live, agents: &mut HashMap<String, AgentPhase>, id: String, phase: AgentPhase) {
    if phase == AgentPhase::Ready {
        board.introduce(&id);
    }
    let name = verbs::phase_name(phase);
    match agents.insert(id.clone(), phase) {
        Some(before) if before != phase => {
            live.notice(&format!("agent {id}: {} → {name}", verbs::phase_name(before)));
        }
        _ => {}
    }
}

/// Notices when nothing moves any more.
struct Stall {
    last: Instant,
}

impl Stall {
    fn new(now: Instant) -> Self {
        Self { last: now }
    }

    fn moved(&mut self, now: Instant) {
        self.last = now;
    }

    fn check(&self, now: Instant, limit: Duration) -> Result<(), Failure> {
        if now.duration_since(self.last) < limit {
            return Ok(());
        }
        let why = format!("no task has moved for {} s", limit.as_secs());
        Err(Failure::new(Exit::Timeout, "the job stands still", why)
            .next("read the logs in the data folder, then run the same command again to go on"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser as _;

    fn demo(line: &str) -> Demo {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().verb {
            Verb::Demo(demo) => demo,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn folders_that_are_none_are_usage() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for bad in [&file, &dir.path().join("absent")] {
            let failure = folder(bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.to_string().contains("--dir"), "{failure}");
        }
        assert!(folder(dir.path()).is_ok());
    }

    #[test]
    fn a_job_is_planned_once_and_resumed_until_complete() {
        let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let args = demo("hive demo");
        assert!(plan(&args, dir.path(), data.path()).unwrap().is_none(), "an empty folder");
        std::fs::write(dir.path().join("a"), "").unwrap();
        let planned = |args: &Demo| plan(args, dir.path(), data.path()).unwrap().unwrap();
        let first = planned(&args);
        assert!(!first.resumed && first.dropped.is_none() && first.manifest.entries.len() == 4);
        std::fs::write(dir.path().join("b"), "").unwrap();
        let second = planned(&args);
        assert!(second.resumed && second.manifest == first.manifest);
        let fresh = planned(&demo("hive demo --fresh"));
        assert!(!fresh.resumed && fresh.manifest.entries.len() == 8);
        assert_eq!(fresh.dropped, Some(first.manifest.job));
        manifest::complete(data.path()).unwrap();
        let third = planned(&demo("hive demo -c wc -c wc"));
        assert!(!third.resumed && third.manifest.entries.len() == 2);
    }

    #[test]
    fn standing_still_has_an_end() {
        let start = clock::now();
        let mut stall = Stall::new(start);
        let limit = Duration::from_secs(10);
        assert!(stall.check(start + Duration::from_secs(9), limit).is_ok());
        stall.moved(start + Duration::from_secs(9));
        assert!(stall.check(start + Duration::from_secs(18), limit).is_ok());
        assert_eq!(stall.check(start + Duration::from_secs(19), limit).unwrap_err().exit, Exit::Timeout);
    }
}
