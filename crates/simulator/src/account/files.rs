//! From the rows of finished CSV files to the account.
//!
//! - A file that is not finished has another name, and is passed over.
//! - A row that cannot be understood is a doubt: an account with a hole proves nothing.

use std::io;
use std::path::{Path, PathBuf};

use model::{SampleKey, Timestamp};

use super::histories::Nonsense;
use super::keys::Text;
use super::{Account, Filed};

/// Enters the rows of every finished file in `folder`.
pub fn enter_files(folder: &Path, account: &mut Account) -> io::Result<()> {
    enter_each(folder, "samples", account, enter_row)?;
    for kind in ["gaps", "openings", "expiries"] {
        enter_each(folder, kind, account, enter_named)?;
    }
    Ok(())
}

fn enter_each(
    folder: &Path,
    kind: &str,
    account: &mut Account,
    enter: fn(&str, &mut Account) -> Result<(), Nonsense>,
) -> io::Result<()> {
    for path in finished_files(folder, kind)? {
        let text = std::fs::read_to_string(&path)?;
        for row in text.lines().skip(1) {
            if let Err(error) = enter(row, account) {
                account.misread(format!("{}: a row makes no sense: {error}", path.display()));
            }
        }
    }
    Ok(())
}

/// What is no sample may stand in a file and still be on its way over HTTP.
fn enter_named(row: &str, account: &mut Account) -> Result<(), Nonsense> {
    let key = row.split(',').next().ok_or(Nonsense::Short)?.parse::<SampleKey>()?;
    account.keys.filed(key, Text::of(row.split(',')), false);
    account.named.filed(key);
    Ok(())
}

/// Cells of the simulated plant hold neither commas nor quotes.
fn enter_row(row: &str, account: &mut Account) -> Result<(), Nonsense> {
    let cells: Vec<&str> = row.split(',').collect();
    let &[key, tag, _, _, _, _, _, source_time, _, device, _, grid, slot, _, _] = cells.as_slice() else {
        return Err(Nonsense::Short);
    };
    let key = key.parse::<SampleKey>()?;
    let slot = if slot.is_empty() { None } else { Some((grid.parse()?, slot.parse()?)) };
    let filed = account.file(device, tag, slot, source_time.parse::<Timestamp>()?);
    account.keys.filed(key, Text::of(cells), filed != Filed::Unknown);
    Ok(())
}

/// Rows of samples in `folder`, those of unfinished files excepted.
pub fn count_rows(folder: &Path) -> io::Result<u64> {
    count_rows_of(folder, "samples")
}

/// The same of gaps and openings together.
pub fn count_other_rows(folder: &Path) -> io::Result<u64> {
    Ok(count_rows_of(folder, "gaps")? + count_rows_of(folder, "openings")?)
}

fn count_rows_of(folder: &Path, kind: &str) -> io::Result<u64> {
    let mut rows = 0;
    for path in finished_files(folder, kind)? {
        rows += std::fs::read_to_string(&path)?.lines().skip(1).count() as u64;
    }
    Ok(rows)
}

/// Finished files of a kind.
fn finished_files(folder: &Path, kind: &str) -> io::Result<Vec<PathBuf>> {
    let marked = format!(".{kind}.");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with('.') && name.ends_with(".csv") && name.contains(&marked) {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::histories::enter;
    use crate::account::histories::tests::LINES;
    use crate::plant::Plant;

    const GAP_ROW: &str = "00000000/7/2147483648,hall-1/press-1,fast,1,0,2,3,2023-11-14T22:13:20.000000000Z,\
                           2023-11-14T22:13:20.300000000Z,failover,node-1,3";
    const OPENING_ROW: &str = "00000000/6/2147483648,hall-1/press-1,fast,1,2023-11-14T22:13:20.000000000Z,0.100s,,\
                               configuration,node-1,3";
    const SAMPLE_ROW: &str = "00000000/7/0,hall-2/robot-1/cycles,0,u64,,good,Good,2023-11-14T22:13:20.000000000Z,\
                              2023-11-14T22:13:20.000000000Z,hall-2/robot-1,,,,node-1,3";

    /// Writes rows into a finished file of their own.
    fn file(folder: &Path, kind: &str, number: usize, rows: &[&str]) {
        let rows: String = rows.iter().map(|row| format!("{row}\r\n")).collect();
        let name = format!("files.{kind}.00000000-{number}-1.t3.csv");
        std::fs::write(folder.join(name), format!("key\r\n{rows}")).expect("room");
    }

    #[test]
    fn each_gap_and_each_opening_that_came_must_stand_in_files_once() {
        let found = |gaps: &[&[&str]], openings: &[&str], due_ns: Option<u64>| {
            let folder = tempfile::tempdir().expect("a folder");
            file(folder.path(), "samples", 1, &[SAMPLE_ROW]);
            file(folder.path(), "openings", 1, openings);
            for (number, rows) in gaps.iter().enumerate() {
                file(folder.path(), "gaps", number, rows);
            }
            let mut account = Account::new(&Plant::demo(), 0);
            for line in &LINES[2..7] {
                enter(line.as_bytes(), &mut account).expect("it makes sense");
            }
            assert_eq!(account.gaps_and_openings(), 2);
            due_ns.into_iter().for_each(|due_ns| account.rows_are_due(due_ns));
            enter_files(folder.path(), &mut account).expect("readable");
            let report = account.settle();
            let named = report.problems.iter().any(|problem| problem.contains("gaps and openings"));
            assert_eq!(named, report.records_unfiled + report.records_filed_twice > 0, "{report:?}");
            (report.records_unfiled, report.records_filed_twice)
        };
        let (gap, opening) = (&[GAP_ROW][..], &[OPENING_ROW][..]);
        // Both came at 4.
        assert_eq!(found(&[gap], opening, Some(4)), (0, 0));
        assert_eq!(found(&[], opening, Some(4)), (1, 0), "a gap is missing");
        assert_eq!(found(&[gap], &[], Some(4)), (1, 0), "an opening is missing");
        assert_eq!(found(&[], &[], Some(4)), (2, 0));
        assert_eq!(found(&[gap, gap], opening, Some(4)), (0, 1), "in two files");
        assert_eq!(found(&[gap], &[OPENING_ROW, OPENING_ROW], Some(4)), (0, 1), "twice in one");
        let under_another = GAP_ROW.replace("00000000/7/", "00000000/9/");
        assert_eq!(found(&[&[under_another.as_str()]], opening, Some(4)), (1, 0), "under another key");
        assert_eq!(found(&[], &[], Some(3)), (0, 0), "they came later than files were waited for");
        assert_eq!(found(&[], &[], None), (0, 0), "nobody has waited for files");
    }

    #[test]
    fn rows_of_gaps_and_openings_are_counted_together() {
        let folder = tempfile::tempdir().expect("a folder");
        file(folder.path(), "gaps", 1, &[GAP_ROW, GAP_ROW]);
        file(folder.path(), "openings", 1, &[OPENING_ROW]);
        file(folder.path(), "samples", 1, &[SAMPLE_ROW]);
        let count = |rows: io::Result<u64>| rows.expect("readable");
        assert_eq!((count(count_other_rows(folder.path())), count(count_rows(folder.path()))), (3, 1));
    }

    #[test]
    fn rows_of_files_are_counted_and_entered() {
        let folder = tempfile::tempdir().expect("a folder");
        let row = "00000000/7/0,hall-2/robot-1/cycles,0,u64,,good,Good,2023-11-14T22:13:20.000000000Z,\
                   2023-11-14T22:13:20.000000000Z,hall-2/robot-1,,,,node-1,3\r\n";
        let text = format!("key,tag\r\n{row}");
        std::fs::write(folder.path().join("files.samples.00000000-1-1.t3.csv"), &text).expect("room");
        std::fs::write(folder.path().join(".files.samples.00000000-2-1.t3.csv.node-1.part"), &text)
            .expect("room");
        assert_eq!(count_rows(folder.path()).expect("readable"), 1);
        let mut account = Account::new(&Plant::demo(), 0);
        for line in &LINES[2..5] {
            enter(line.as_bytes(), &mut account).expect("it makes sense");
        }
        enter_files(folder.path(), &mut account).expect("readable");
        assert_eq!(account.unfiled(), 0);
        let report = account.settle();
        assert_eq!((report.lost, report.keys_astray), (5, 0), "only what nobody got is lost");
    }

    #[test]
    fn a_row_that_differs_from_what_came_over_http_under_its_key_is_astray() {
        let (gap, opening, sample) = (GAP_ROW, OPENING_ROW, SAMPLE_ROW);
        let astray = |kind: &str, row: &str| {
            let folder = tempfile::tempdir().expect("a folder");
            file(folder.path(), kind, 1, &[row]);
            let mut account = Account::new(&Plant::demo(), 0);
            for line in &LINES[2..7] {
                enter(line.as_bytes(), &mut account).expect("it makes sense");
            }
            enter_files(folder.path(), &mut account).expect("readable");
            let report = account.settle();
            let problems = report.problems.join("; ");
            assert!(!problems.contains("makes no sense"), "{problems}");
            report.keys_astray
        };
        let rows =
            [("samples", sample, "node-1"), ("gaps", gap, "failover"), ("openings", opening, "0.100s")];
        for (kind, row, word) in rows {
            assert_eq!(astray(kind, row), 0, "{row}");
            assert_eq!(astray(kind, &row.replace(word, "other")), 1, "{kind}: it says something else");
        }
        let under_another = sample.replace("00000000/7/0", "00000000/8/0");
        assert_eq!(astray("samples", &under_another), 1, "the sample came, and under another key");
    }
}
