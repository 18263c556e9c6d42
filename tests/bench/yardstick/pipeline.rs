//! The bare pipeline: client → (store) → worker → (store) → client, with nothing of what makes a task
//! safe: no policy, no fence, no recovery, no retention. What it does, nobody can do faster here with
//! these libraries; Hive's figures are given as a share of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::wire::{Caller, Frame, Frames, Hub, Item, framed, monotonic, serve as serve_hub};

const TASKS: redb::TableDefinition<'static, u64, &[u8]> = redb::TableDefinition::new("tasks");
/// Writes of one commit, at most; as many as in Hive.
const GROUP: usize = 1_016;

type Out = mpsc::UnboundedSender<Item>;

enum Write {
    Submitted(Item, Out),
    Completed(Item, Out),
}

#[derive(Clone)]
struct Pipeline {
    writes: std::sync::mpsc::Sender<Write>,
    waiting: Arc<Mutex<HashMap<u64, Out>>>,
    workers: Arc<Mutex<Vec<Out>>>,
    next: Arc<AtomicUsize>,
}

impl Pipeline {
    /// Over a redb file at `store`, or over nothing.
    fn new(store: Option<PathBuf>) -> Self {
        let (writes, queue) = std::sync::mpsc::channel();
        let pipeline = Self { writes, waiting: Arc::default(), workers: Arc::default(), next: Arc::default() };
        let after = pipeline.clone();
        let store = store.map(|path| redb::Database::create(path).expect("a store"));
        std::thread::spawn(move || {
            while let Ok(first) = queue.recv() {
                let group: Vec<Write> = std::iter::once(first).chain(queue.try_iter()).take(GROUP).collect();
                if let Some(store) = &store {
                    commit(store, &group);
                }
                group.into_iter().for_each(|write| after.committed(write));
            }
        });
        pipeline
    }

    fn committed(&self, write: Write) {
        match write {
            Write::Submitted(item, client) => {
                self.waiting.lock().expect("sound").insert(item.id, client);
                let workers = self.workers.lock().expect("sound");
                let place = self.next.fetch_add(1, Ordering::Relaxed) % workers.len();
                workers[place].send(item).expect("a worker");
            }
            // A client that has gone is not waited for.
            Write::Completed(item, client) => drop(client.send(item)),
        }
    }
}

fn commit(store: &redb::Database, group: &[Write]) {
    let transaction = store.begin_write().expect("begun");
    {
        let mut table = transaction.open_table(TASKS).expect("a table");
        for write in group {
            match write {
                Write::Submitted(item, _) => table.insert(item.id, &item.body[..]),
                Write::Completed(item, _) => table.insert(item.id, &item.body[..]),
            }
            .expect("written");
        }
    }
    transaction.commit().expect("committed");
}

impl Hub for Pipeline {
    fn clients(&self, mut from: Streaming<Frame>) -> Frames {
        let (out, items) = mpsc::unbounded_channel();
        let writes = self.writes.clone();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = from.message().await {
                for item in frame.items {
                    writes.send(Write::Submitted(item, out.clone())).expect("the writer");
                }
            }
        });
        framed(items)
    }

    fn workers(&self, mut from: Streaming<Frame>) -> Frames {
        let (out, items) = mpsc::unbounded_channel();
        self.workers.lock().expect("sound").push(out);
        let me = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = from.message().await {
                for item in frame.items {
                    let client = me.waiting.lock().expect("sound").remove(&item.id);
                    if let Some(client) = client {
                        me.writes.send(Write::Completed(item, client)).expect("the writer");
                    }
                }
            }
        });
        framed(items)
    }
}

/// The server's process; `store` is a folder, or nothing is durable.
pub async fn serve(store: Option<&Path>) {
    serve_hub(Pipeline::new(store.map(|folder| folder.join("pipeline.redb")))).await;
}

/// The workers' process: `count` streams, each on a connection of its own, that answer at once with
/// the time and a result of 128 B.
pub async fn work(address: SocketAddr, count: usize) {
    let result = Bytes::from(vec![2; 128]);
    let mut workers = Vec::new();
    for _ in 0..count {
        let mut caller = Caller::connect(address).await;
        let (out, items) = mpsc::unbounded_channel();
        let mut tasks = caller.stream(true, items).await;
        let result = result.clone();
        workers.push(tokio::spawn(async move {
            while let Ok(Some(frame)) = tasks.message().await {
                for task in frame.items {
                    let done = Item { id: task.id, at: monotonic(), body: result.clone() };
                    // The server is gone at the end.
                    drop(out.send(done));
                }
            }
        }));
    }
    println!("ready");
    for worker in workers {
        worker.await.expect("a worker");
    }
}

/// What the load found.
#[derive(Debug, Default, serde::Deserialize, serde::Serialize)]
pub struct Found {
    /// Tasks per second, per run.
    pub rates: Vec<f64>,
    /// Submit to start at 50 tasks/s: p50, p99, in milliseconds.
    pub start: (f64, f64),
}

/// The load's process.
pub async fn load(address: SocketAddr, window: usize, runs: u32, length: Duration, trials: u32) -> Found {
    let mut caller = Caller::connect(address).await;
    let (out, items) = mpsc::unbounded_channel();
    let mut ends = caller.stream(false, items).await;
    let payload = Bytes::from(vec![1; 128]);
    let mut id = 0;
    let mut found = Found::default();
    let mut open = 0usize;
    for run in 0..=runs {
        let begun = monotonic();
        let until = begun + u64::try_from(length.as_nanos()).expect("short") / if run == 0 { 3 } else { 1 };
        let mut done = 0u32;
        while monotonic() < until {
            while open < window {
                id += 1;
                open += 1;
                out.send(Item { id, at: 0, body: payload.clone() }).expect("the stream");
            }
            let frame = ends.message().await.expect("a stream").expect("ends");
            open -= frame.items.len();
            done += u32::try_from(frame.items.len()).expect("few");
        }
        if run > 0 {
            found.rates.push(f64::from(done) / ((monotonic() - begun) as f64 / 1e9));
        }
    }
    while open > 0 {
        open -= ends.message().await.expect("a stream").expect("ends").items.len();
    }
    let mut starts = Histogram::<u64>::new(3).expect("sound");
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..trials {
        tick.tick().await;
        id += 1;
        let at = monotonic();
        out.send(Item { id, at: 0, body: payload.clone() }).expect("the stream");
        let end = ends.message().await.expect("a stream").expect("ends");
        starts.record(end.items[0].at.saturating_sub(at)).expect("in bounds");
    }
    let ms = |q| starts.value_at_quantile(q) as f64 / 1e6;
    found.start = (ms(0.5), ms(0.99));
    found
}

/// Opens `count` connections at once, then on each one stream of a client, again all at once, and
/// leaves them idle. Returns the milliseconds from each stream's opening to its first answer.
pub async fn idle(address: SocketAddr, count: usize) -> Vec<f64> {
    let dialling: Vec<_> = (0..count).map(|_| tokio::spawn(Caller::connect(address))).collect();
    let mut callers = Vec::new();
    for dialled in dialling {
        callers.push(dialled.await.expect("connected"));
    }
    let open = |mut caller: Caller| async move {
        let begun = monotonic();
        let (out, items) = mpsc::unbounded_channel();
        let stream = caller.stream(false, items).await;
        caller.echo(Item::default()).await;
        let took = (monotonic() - begun) as f64 / 1e6;
        // They stay open until this process ends.
        std::mem::forget((caller, out, stream));
        took
    };
    let opening: Vec<_> = callers.into_iter().map(|caller| tokio::spawn(open(caller))).collect();
    let mut times = Vec::new();
    for open in opening {
        times.push(open.await.expect("opened"));
    }
    times
}
