//! `metrobus make-data`: made-up emails.dat and whitelist.dat.
//!
//! The same seed and counts give the same bytes, on every platform and in every version: random numbers come from
//! ChaCha8 and from nothing that a release of another crate could change. Accounts run from 1000000 in steps of 1 to 5
//! up to 1999999. The list takes its share (`--hit-rate`) of the emails of these accounts, to the nearest one; the
//! rest of it belongs to no account. It is made from the seed alone, so each file can be made without the other.
//!
//! A file is written beside its place, synced and renamed over it: a stop that watches it sees the old one or the new
//! one, and where something goes wrong the old one stays.

mod emails;
mod names;

use std::{
    fs::{self, File, Permissions},
    io::{BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, Command, FromArgMatches, ValueEnum};
use indicatif::ProgressBar;
use tracing::info;

use self::emails::{Emails, Random, accounts};
use super::{Kind, Role};
use crate::{error::Misconfigured, progress};

/// Emails on the list, unless told otherwise.
const LIST: u64 = 500_000;

/// Lines between two steps of the progress bar.
const STEP: u64 = 10_000;

pub const ROLE: Role = Role {
    name: "make-data",
    about: "Make fixtures: emails.dat and whitelist.dat",
    kind: Kind::Command {
        arguments: Arguments::augment_args as fn(Command) -> Command,
        run: |matches, _| make(&Arguments::from_arg_matches(matches)?),
    },
};

#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Which files: emails.dat, `account,email` a line; whitelist.dat, an email a line
    #[arg(value_enum, default_value_t = What::All)]
    pub what: What,

    /// Accounts, at most, and half as many more lines of the whitelist; for `whitelist` alone, its lines [default: all
    /// accounts, 500000 lines]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=Emails::MOST))]
    pub count: Option<u64>,

    /// The same seed gives the same bytes
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// Share of the accounts' emails that the whitelist takes, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    pub hit_rate: f64,

    /// Folder for the files, made where missing
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    pub out: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Emails,
    Whitelist,
    All,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a number from 0 to 1 is expected".into())
}

/// Writes the files that `arguments` ask for, with a progress bar where stderr is a terminal.
fn make(arguments: &Arguments) -> anyhow::Result<()> {
    let fixtures = Fixtures {
        seed: arguments.seed,
        accounts: arguments.count.filter(|_| arguments.what != What::Whitelist),
        listed: match (arguments.what, arguments.count) {
            (What::Whitelist, Some(count)) => Some(count),
            (What::All, Some(_)) => None,
            _ => Some(LIST),
        },
        hit_rate: arguments.hit_rate,
    };
    let bar = progress::bar(Some(0), "lines");
    if arguments.what != What::Whitelist {
        let lines = fixtures.write_emails(&arguments.out, &bar)?;
        info!("wrote {}: {lines} lines", arguments.out.join("emails.dat").display());
    }
    if arguments.what != What::Emails {
        let (lines, hits) = fixtures.write_list(&arguments.out, &bar)?;
        let path = arguments.out.join("whitelist.dat");
        info!("wrote {}: {lines} lines, {hits} of them emails of accounts", path.display());
    }
    Ok(())
}

/// What the files are to hold.
#[derive(Clone, Copy, Debug)]
pub struct Fixtures {
    pub seed: u64,
    /// Most accounts; without it, all up to 1999999, about 333,000.
    pub accounts: Option<u64>,
    /// Emails on the list; without it, half as many again as there are accounts.
    pub listed: Option<u64>,
    /// Share of the account emails that are on the list, 0 to 1.
    pub hit_rate: f64,
}

impl Fixtures {
    /// Writes emails.dat and whitelist.dat into `folder`, without a word.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        self.write_emails(folder, &ProgressBar::hidden())?;
        self.write_list(folder, &ProgressBar::hidden())?;
        Ok(())
    }

    /// Gives the lines written.
    fn write_emails(&self, folder: &Path, bar: &ProgressBar) -> anyhow::Result<u64> {
        let emails = Emails::new(self.seed);
        begin(bar, "emails.dat", self.accounts().count() as u64);
        let mut lines = 0;
        replace(folder, "emails.dat", |out| {
            let mut line = Vec::new();
            for (index, account) in self.accounts().enumerate() {
                line.clear();
                write!(line, "{account},")?;
                emails.append(index as u64, &mut line);
                line.push(b'\n');
                out.write_all(&line)?;
                lines += 1;
                advance(bar, lines);
            }
            Ok(())
        })?;
        bar.finish_and_clear();
        Ok(lines)
    }

    /// Gives the lines written, and how many of them are emails of accounts.
    fn write_list(&self, folder: &Path, bar: &ProgressBar) -> anyhow::Result<(u64, u64)> {
        let accounts = self.accounts().count() as u64;
        let listed = self.listed.unwrap_or(accounts + accounts / 2);
        let hits = (self.hit_rate * accounts as f64).round() as u64;
        if hits > listed {
            return Err(Misconfigured(format!(
                "a list of {listed} emails cannot hold a share of {} of {accounts} account emails, which is {hits}: \
                 raise --count or lower --hit-rate",
                self.hit_rate
            ))
            .into());
        }
        let emails = Emails::new(self.seed);
        begin(bar, "whitelist.dat", listed);
        replace(folder, "whitelist.dat", |out| {
            let chosen = Random::new(self.seed, "hits").choose(hits, accounts);
            let mut of_accounts = (0..).zip(chosen).filter_map(|(index, chosen)| chosen.then_some(index));
            let mut strangers = Emails::STRANGERS..;
            let mut line = Vec::new();
            for (number, hit) in (1..).zip(Random::new(self.seed, "mix").choose(hits, listed)) {
                line.clear();
                let index = if hit { of_accounts.next() } else { strangers.next() };
                emails.append(index.unwrap_or_default(), &mut line);
                line.push(b'\n');
                out.write_all(&line)?;
                advance(bar, number);
            }
            Ok(())
        })?;
        bar.finish_and_clear();
        Ok((listed, hits))
    }

    fn accounts(&self) -> impl Iterator<Item = u32> {
        accounts(self.seed).take(self.accounts.map_or(usize::MAX, |most| most as usize))
    }
}

fn begin(bar: &ProgressBar, name: &'static str, lines: u64) {
    bar.reset();
    bar.set_length(lines);
    bar.set_message(name);
}

fn advance(bar: &ProgressBar, lines: u64) {
    if lines.is_multiple_of(STEP) {
        bar.set_position(lines);
    }
}

/// Writes what `write` gives beside `folder/name`, and renames it over that once it is whole and on the disk.
fn replace(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let path = folder.join(name);
    let context = || format!("write {}", path.display());
    fs::create_dir_all(folder).with_context(context)?;
    // Readable for others, as far as the umask lets it: the stops may run as another user
    let mut beside = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".part")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .with_context(context)?;
    let mut out = BufWriter::with_capacity(1 << 16, beside.as_file_mut());
    write(&mut out).and_then(|()| out.flush()).with_context(context)?;
    drop(out);
    beside.as_file().sync_all().with_context(context)?;
    beside.persist(&path).with_context(context)?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(context)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn write(fixtures: &Fixtures) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        fixtures.write(folder.path()).unwrap();
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        (read("emails.dat"), read("whitelist.dat"))
    }

    fn small(accounts: u64, listed: Option<u64>, hit_rate: f64) -> Fixtures {
        Fixtures { seed: 1, accounts: Some(accounts), listed, hit_rate }
    }

    /// How many account emails are on the list.
    fn hits(emails: &str, list: &str) -> usize {
        let listed: HashSet<&str> = list.lines().collect();
        emails.lines().filter(|line| listed.contains(line.split_once(',').unwrap().1)).count()
    }

    /// FNV-1a, 64 bits.
    fn hash(text: &str) -> u64 {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    }

    #[test]
    fn a_seed_stands_for_its_bytes() {
        let (emails, list) = write(&small(1000, None, 0.5));
        assert_eq!(emails.lines().next(), Some("1000000,jan-brooks@hilltop-labs.example"));
        assert_eq!((hash(&emails), hash(&list)), (0xf13c_1b9c_b8bc_dc74, 0xb0ae_863d_9970_1d94));
        let (emails, list) = write(&Fixtures { seed: u64::MAX, ..small(1000, Some(600), 0.5) });
        assert_eq!((hash(&emails), hash(&list)), (0x344b_3177_cb10_1088, 0x8196_7ac9_ef7d_1a11));
    }

    #[test]
    fn the_defaults_are_what_a_stop_is_measured_with() {
        let (emails, list) = write(&Fixtures { seed: 1, accounts: None, listed: Some(LIST), hit_rate: 0.5 });
        assert_eq!((hash(&emails), hash(&list)), (0x95d0_e7d4_3eed_bd0d, 0x9c5b_cf60_5bf3_5558));
        let accounts: Vec<u32> = emails.lines().map(|line| line.split_once(',').unwrap().0.parse().unwrap()).collect();
        assert_eq!(accounts[0], 1_000_000);
        assert!((1_999_995..=1_999_999).contains(accounts.last().unwrap()));
        let steps: HashSet<u32> = accounts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(steps, HashSet::from([1, 2, 3, 4, 5]));
        assert!(accounts.len().abs_diff(333_333) < 2_000, "{}", accounts.len());
        let distinct: HashSet<&str> = emails.lines().map(|line| line.split_once(',').unwrap().1).collect();
        assert_eq!(distinct.len(), accounts.len());
        let listed: HashSet<&str> = list.lines().collect();
        assert_eq!((list.lines().count(), listed.len()), (500_000, 500_000));
        assert_eq!(hits(&emails, &list), accounts.len().div_ceil(2));
        assert!(emails.is_ascii() && list.is_ascii());
    }

    #[test]
    fn the_hit_rate_holds_to_the_nearest_email() {
        for (rate, expected) in [(0.0, 0), (0.001, 1), (0.25, 250), (0.999, 999), (1.0, 1000)] {
            for listed in [Some(1000), Some(5000), None] {
                let (emails, list) = write(&small(1000, listed, rate));
                assert_eq!(list.lines().count() as u64, listed.unwrap_or(1500));
                assert_eq!(hits(&emails, &list), expected, "{rate} of 1000 accounts, {listed:?} listed");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let error = small(1000, Some(499), 0.5).write(folder.path()).unwrap_err();
        assert!(error.is::<Misconfigured>());
        assert_eq!(
            error.to_string(),
            "a list of 499 emails cannot hold a share of 0.5 of 1000 account emails, which is 500: raise --count or \
             lower --hit-rate"
        );
    }

    fn arguments(what: What, count: Option<u64>, out: &Path) -> Arguments {
        Arguments { what, count, seed: 7, hit_rate: 1.0, out: out.into() }
    }

    #[test]
    fn each_file_made_alone_goes_with_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        make(&arguments(What::All, None, &path("both"))).unwrap();
        make(&arguments(What::Whitelist, None, &path("each"))).unwrap();
        make(&arguments(What::Emails, None, &path("each"))).unwrap();
        for name in ["emails.dat", "whitelist.dat"] {
            assert!(fs::read(path("both").join(name)).unwrap() == fs::read(path("each").join(name)).unwrap(), "{name}");
        }
    }

    #[test]
    fn a_count_says_how_many_lines() {
        let folder = tempfile::tempdir().unwrap();
        let lines = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap().lines().count();
        make(&arguments(What::All, Some(100), folder.path())).unwrap();
        assert_eq!((lines("emails.dat"), lines("whitelist.dat")), (100, 150));
        make(&arguments(What::Whitelist, Some(400_000), folder.path())).unwrap();
        make(&arguments(What::Emails, Some(1), folder.path())).unwrap();
        assert_eq!((lines("emails.dat"), lines("whitelist.dat")), (1, 400_000));
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        let mode = fs::metadata(folder.path().join("emails.dat")).unwrap().permissions().mode();
        assert_eq!(mode & 0o400, 0o400);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("emails.dat"), "old").unwrap();
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = replace(folder.path(), "emails.dat", |out| {
            out.write_all(&[b'x'; 1 << 20])?;
            Err(full())
        });
        let name = folder.path().join("emails.dat").display().to_string();
        assert_eq!(format!("{:#}", error.unwrap_err()), format!("write {name}: {}", full()));
        assert_eq!(fs::read(&name).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = replace(Path::new(&name), "x", |_| Ok(())).unwrap_err();
        assert!(format!("{error:#}").starts_with(&format!("write {name}/x: ")), "{error:#}");
    }

    #[test]
    fn a_hit_rate_is_a_share() {
        assert_eq!([share("0"), share("0.25"), share("1")], [Ok(0.0), Ok(0.25), Ok(1.0)]);
        for bad in ["1.01", "-0.1", "nan", "inf", "half", ""] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
