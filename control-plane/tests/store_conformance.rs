//! The conformance suite over the embedded store, and what only a folder on a disk can suffer:
//! kill -9, a second opener, foreign, newer, torn and corrupted files, I/O errors, a full disk.

#![expect(clippy::unwrap_used, reason = "a test that can't set its stage should end there")]

mod store_conformance_support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use hive_control_plane::store::conformance::{self, Leader, delete, nonce, put};
use hive_control_plane::store::embedded::faults::Fault;
use hive_control_plane::store::{CommitError, Op, OpenError, ReadError, RefusedReason, Store};
use store_conformance_support::{Tmpfs, in_memory, open, options, try_open};

macro_rules! suite {
    ($($check:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $check() {
            let dir = tempfile::tempdir().unwrap();
            conformance::$check(&open(dir.path())).await;
        }
    )*};
}

suite! {
    starts_empty,
    keeps_what_was_committed,
    keeps_blobs_apart,
    fences_old_leaders,
    commits_in_order,
    keeps_time,
    refuses_what_is_too_large,
}

#[tokio::test]
async fn survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    conformance::survives_reopening(|| open(dir.path())).await;
}

#[tokio::test]
async fn a_missing_folder_is_made_and_names_its_cluster_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    let first = open(&path).identity();
    assert_eq!(first.cluster, options().cluster);
    let mut other = options();
    other.cluster.0 += 1;
    assert_eq!(try_open(&path, &other).unwrap().identity(), first);
}

#[tokio::test]
async fn a_making_cut_off_anywhere_is_finished() {
    let made = tempfile::tempdir().unwrap();
    drop(open(made.path()));
    for leftovers in [
        &[("LOCK", "LOCK")][..],
        &[("LOCK", "LOCK"), ("HIVE", "store.db.new")],
        &[("store.db", "store.db.new"), ("STAMP", "STAMP"), ("HIVE", "HIVE.new")],
        &[("store.db", "store.db"), ("STAMP", "STAMP"), ("HIVE", "HIVE.new"), ("LOCK", "LOCK")],
    ] {
        let dir = tempfile::tempdir().unwrap();
        for (from, to) in leftovers {
            fs::copy(made.path().join(from), dir.path().join(to)).unwrap();
        }
        conformance::keeps_what_was_committed(&open(dir.path())).await;
    }
}

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = try_open(dir.path(), &options()).unwrap_err();
    let OpenError::Locked { lock, holder } = &refused else { panic!("{refused:?}") };
    assert_eq!((lock.as_path(), *holder), (&*dir.path().join("LOCK"), Some(std::process::id())));
    assert!(refused.is_retryable());
    // The holder is not disturbed, and frees the folder when it goes.
    conformance::keeps_what_was_committed(&store).await;
    drop(store);
    open(dir.path());
}

#[tokio::test]
async fn a_foreign_folder_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let refused = try_open(dir.path(), &options()).unwrap_err();
    assert!(matches!(&refused, OpenError::Foreign { found, .. } if found == "thesis.tex"), "{refused:?}");
    assert!(refused.to_string().contains(&dir.path().display().to_string()), "{refused}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let identity = dir.path().join("HIVE");
    let text = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, text.replace("format 1", "format 9")).unwrap();
    let refused = try_open(dir.path(), &options()).unwrap_err();
    assert!(matches!(refused, OpenError::NewerFormat { found: 9, supported: 1, .. }), "{refused:?}");
}

/// A folder with a history, closed cleanly or copied as a crash would leave it.
async fn with_history(clean: bool) -> (tempfile::TempDir, Vec<(Bytes, Bytes)>) {
    let dir = in_memory();
    let copy = in_memory();
    let store = open(dir.path());
    let (mut leader, _) = Leader::acquire(&store).await;
    for round in 0..12_u8 {
        let base = 20 * u32::from(round);
        leader.write((0..40).map(|i| put(format!("s/{:03}", i + base), vec![round; 300])).collect()).await;
        leader.write((0..10).map(|i| delete(format!("s/{:03}", i + base))).collect()).await;
    }
    let keep = |to: &Path| {
        for file in ["HIVE", "LOCK", "STAMP", "store.db"] {
            fs::copy(dir.path().join(file), to.join(file)).unwrap();
        }
    };
    if !clean {
        keep(copy.path());
    }
    drop(store);
    if clean {
        keep(copy.path());
    }
    // What was acknowledged, read from another copy.
    let reader = in_memory();
    keep(reader.path());
    let records = open(reader.path()).acquire().await.unwrap().records;
    assert!(!records.is_empty());
    (copy, records)
}

/// Opens a folder that was tampered with: either it says so, or nothing at all is missing.
async fn is_refused_or_whole(dir: &Path, records: &[(Bytes, Bytes)], what: &str) -> bool {
    let loaded = match try_open(dir, &options()) {
        Ok(store) => store.acquire().await,
        Err(error) => Err(error),
    };
    match loaded {
        Ok(loaded) => {
            assert!(loaded.records == records, "{what}: opened with other records");
            false
        }
        Err(error) => {
            assert!(matches!(&error, OpenError::Damaged { .. }), "{what}: {error:?}");
            assert!(error.to_string().contains(&dir.display().to_string()), "{what}: {error}");
            true
        }
    }
}

/// File, what is done to it, how.
type Spoil<'a> = (&'a str, &'a str, &'a dyn Fn(&Path));

#[tokio::test]
async fn a_torn_folder_is_refused_and_never_reset() {
    let (whole, records) = with_history(true).await;
    let size = fs::metadata(whole.path().join("store.db")).unwrap().len();
    let spoil: [Spoil<'_>; 9] = [
        ("store.db", "emptied", &|p| fs::write(p, "").unwrap()),
        ("store.db", "removed", &|p| fs::remove_file(p).unwrap()),
        ("store.db", "garbage", &|p| fs::write(p, vec![0x5a; 200_000]).unwrap()),
        ("store.db", "cut to 100 bytes", &|p| cut(p, 100)),
        ("store.db", "cut to half", &|p| cut(p, size / 2)),
        ("STAMP", "removed", &|p| fs::remove_file(p).unwrap()),
        ("STAMP", "garbage", &|p| fs::write(p, vec![1; 56]).unwrap()),
        ("HIVE", "removed", &|p| fs::remove_file(p).unwrap()),
        ("HIVE", "garbage", &|p| fs::write(p, [0xff; 90]).unwrap()),
    ];
    for (file, what, spoil) in spoil {
        let dir = copy_of(whole.path());
        spoil(&dir.path().join(file));
        // The verdict stays: a first look must not turn damage into a fresh start.
        for _ in 0..2 {
            assert!(is_refused_or_whole(dir.path(), &records, what).await, "{file} {what}: not refused");
        }
    }
}

#[tokio::test]
async fn an_older_database_under_a_newer_stamp_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (mut leader, _) = Leader::acquire(&store).await;
    leader.write(vec![put("s/a", "1")]).await;
    let old = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join("store.db"), old.path().join("store.db")).unwrap();
    leader.write(vec![put("s/a", "2")]).await;
    drop(store);
    fs::copy(old.path().join("store.db"), dir.path().join("store.db")).unwrap();
    let refused = try_open(dir.path(), &options()).unwrap_err();
    assert!(refused.to_string().contains("commit 2"), "{refused}");
}

#[tokio::test]
async fn flipped_bytes_lose_nothing_silently() {
    for clean in [true, false] {
        let (whole, records) = with_history(clean).await;
        let image = fs::read(whole.path().join("store.db")).unwrap();
        let stamp = fs::read(whole.path().join("STAMP")).unwrap();
        let used = image.iter().rposition(|b| *b != 0).unwrap_or(0);
        let mut refused = 0;
        // The header densely, the rest in strides that are prime to the page size.
        let places = (0..400).step_by(7).chain((400..used).step_by((used / 150) | 1));
        for at in places {
            // What the open before has written is undone in place.
            fs::write(whole.path().join("store.db"), &image).unwrap();
            fs::write(whole.path().join("STAMP"), &stamp).unwrap();
            let file = fs::File::options().write(true).open(whole.path().join("store.db")).unwrap();
            file.write_all_at(&[image[at] ^ 0x41], u64::try_from(at).unwrap()).unwrap();
            let what = format!("byte {at} of {}, clean {clean}", image.len());
            refused += u32::from(is_refused_or_whole(whole.path(), &records, &what).await);
        }
        assert!(refused > 20, "only {refused} flips were noticed");
    }
}

fn cut(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn copy_of(from: &Path) -> tempfile::TempDir {
    let dir = in_memory();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

#[tokio::test]
async fn an_io_error_leaves_an_unknown_outcome_that_acquire_settles() {
    for (fault, lands) in [(Fault::Sync, true), (Fault::Header, false)] {
        let dir = tempfile::tempdir().unwrap();
        let options = options();
        let store = try_open(dir.path(), &options).unwrap();
        let (mut leader, _) = Leader::acquire(&store).await;
        leader.write(vec![put("s/a", "1"), put("b/a", "1")]).await;

        options.faults.arm(fault);
        let failed = leader.commit(vec![put("s/a", "2")]).await;
        assert!(matches!(failed, Err(CommitError::Unknown(_))), "{fault:?}: {failed:?}");
        assert!(!store.health().open);
        let closed = leader.commit(vec![put("s/a", "3")]).await;
        assert!(matches!(closed, Err(CommitError::Unknown(_))), "{fault:?}: {closed:?}");
        assert!(matches!(store.blob(b"b/a").await, Err(ReadError::Closed)));

        let old = leader.epoch;
        let (mut leader, loaded) = Leader::acquire(&store).await;
        assert!(leader.epoch > old);
        let (seq, value) = if lands { (2, "2") } else { (1, "1") };
        assert_eq!((loaded.seq, loaded.nonce), (seq, nonce(seq)), "{fault:?}");
        assert_eq!(loaded.records[0].1, value, "{fault:?}");
        leader.write(vec![put("s/a", "4")]).await;
        assert_eq!(store.blob(b"b/a").await.unwrap().as_deref(), Some(&b"1"[..]));
    }
}

#[tokio::test]
async fn a_commit_that_met_a_full_disk_is_settled_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = options();
    let store = try_open(dir.path(), &options).unwrap();
    let (mut leader, _) = Leader::acquire(&store).await;
    leader.write(vec![put("s/a", "1")]).await;
    options.faults.arm(Fault::Full);
    let refused = leader.commit(vec![put("s/a", "2")]).await;
    assert!(matches!(refused, Err(CommitError::Refused(RefusedReason::NoSpace))), "{refused:?}");
    // Same leader, same number: nothing was written, nothing was lost.
    leader.write(vec![put("s/b", "2")]).await;
    let loaded = store.acquire().await.unwrap();
    assert_eq!((loaded.seq, loaded.records.len(), &loaded.records[0].1[..]), (2, 2, &b"1"[..]));
}

#[tokio::test]
async fn a_full_disk_sheds_then_frees_and_loses_nothing() {
    let Some(disk) = Tmpfs::mount("48m") else {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    };
    let mut options = options();
    (options.ballast, options.shed_below) = (4 << 20, 8 << 20);
    let folder = disk.path().join("data");
    let store = try_open(&folder, &options).unwrap();
    assert!(!store.health().shedding && !store.health().ballast_released);

    let (mut leader, _) = Leader::acquire(&store).await;
    let mut model = BTreeMap::new();
    let mut refusals = 0;
    while refusals < 3 {
        let ops: Vec<Op> = (0..32).map(|i| put(format!("s/{:08}", leader.seq * 32 + i), vec![9; 4096])).collect();
        match leader.commit(ops.clone()).await {
            Ok(_) => model.extend(ops.iter().map(|op| (op.key().clone(), ()))),
            Err(CommitError::Refused(RefusedReason::NoSpace)) => refusals += 1,
            Err(error) => panic!("after {} commits: {error:?}", leader.seq),
        }
        assert!(leader.seq < 1000, "the disk never filled");
    }
    assert!(store.health().shedding && store.health().ballast_released && store.health().open);

    // Retention still works, and what it frees can be used.
    let doomed: Vec<Bytes> = model.keys().take(model.len() * 3 / 4).cloned().collect();
    for keys in doomed.chunks(100) {
        leader.write(keys.iter().map(delete).collect()).await;
        for key in keys {
            model.remove(key);
        }
    }
    for i in 0..20 {
        let key = format!("s/after/{i}");
        leader.write(vec![put(&key, vec![9; 4096])]).await;
        model.insert(Bytes::from(key), ());
    }
    let seq = leader.seq;
    drop(store);
    let loaded = try_open(&folder, &options).unwrap().acquire().await.unwrap();
    assert_eq!(loaded.seq, seq);
    assert!(loaded.records.iter().map(|(k, _)| k).eq(model.keys()));
}

const KILLED_STORE: &str = "HIVE_TEST_KILLED_STORE";

fn killed_history(seq: u64) -> Vec<Op> {
    let (slot, value) = (seq % 50, seq.to_be_bytes().repeat(60));
    let mut ops: Vec<Op> = (0..8).map(|copy| put(format!("s/{slot:02}/{copy}"), &value)).collect();
    if seq.is_multiple_of(7) {
        ops.extend((0..8).map(|copy| delete(format!("s/{:02}/{copy}", (slot + 25) % 50))));
    }
    ops
}

/// The victim of the test below, in a process of its own.
#[tokio::test]
#[ignore = "run by acknowledged_commits_survive_kill_9"]
async fn victim() {
    let Some(folder) = std::env::var_os(KILLED_STORE) else { return };
    let store = open(Path::new(&folder));
    let (mut leader, _) = Leader::acquire(&store).await;
    let mut out = std::io::stdout();
    loop {
        leader.write(killed_history(leader.seq + 1)).await;
        writeln!(out, "ack {}", leader.seq).unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn acknowledged_commits_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut modelled = 0;
    for round in 0..12u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env(KILLED_STORE, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut acknowledged = modelled;
        let mut acks = 0;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // libtest's own words may stand before the first one on its line.
        for ack in lines.filter_map(|line| line.split_once("ack ")?.1.parse::<u64>().ok()) {
            acknowledged = ack;
            acks += 1;
            if acks == 1 + 17 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acks > 17 * round, "the victim ended early");

        let loaded = open(dir.path()).acquire().await.unwrap();
        assert!(
            (acknowledged..=acknowledged + 1).contains(&loaded.seq),
            "acknowledged {acknowledged}, found {}",
            loaded.seq
        );
        for seq in modelled + 1..=loaded.seq {
            for op in killed_history(seq) {
                match op {
                    Op::Put { key, value } => drop(model.insert(key, value)),
                    Op::Delete { key } => drop(model.remove(&key)),
                }
            }
        }
        modelled = loaded.seq;
        assert!(loaded.records.iter().map(|(k, v)| (k, v)).eq(model.iter()), "half a transaction at {modelled}");
    }
}
