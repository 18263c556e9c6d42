//! The raw store: durable commits of redb with nothing around them.

use std::path::Path;
use std::time::{Duration, Instant};

const TABLE: redb::TableDefinition<'static, u64, &[u8]> = redb::TableDefinition::new("raw");

/// Writes per second in commits of `group` writes of 256 B.
pub fn writes_per_second(folder: &Path, group: u64, length: Duration) -> f64 {
    let store = redb::Database::create(folder.join(format!("raw-{group}.redb"))).expect("a store");
    let value = [7; 256];
    let begun = Instant::now();
    let mut written = 0;
    while begun.elapsed() < length {
        let transaction = store.begin_write().expect("begun");
        {
            let mut table = transaction.open_table(TABLE).expect("a table");
            for n in 0..group {
                table.insert(written + n, &value[..]).expect("written");
            }
        }
        transaction.commit().expect("committed");
        written += group;
    }
    written as f64 / begun.elapsed().as_secs_f64()
}
