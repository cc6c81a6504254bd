//! `metrobus cache build`: the .dat files as files of LMDB, for stops with `cache = "lmdb"`.
//!
//! Each takes its name once it is whole and on the disk; a stop that runs goes on with it within seconds. Where it does
//! not come to that (a malformed line, an interruption, a full disk) the old file stays, and nothing beside it; what a
//! killed build leaves there, `.NAME.build`, is removed by the next one.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::anyhow;
use clap::Args;
use tracing::info;

use super::{Context, cache::Only, contactpoint, whitelist};
use crate::{
    cache::{
        lines::{Layout, unreadable},
        lmdb::{self, Step},
    },
    error::Misconfigured,
    progress,
    shutdown::Shutdown,
};

#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// What to build from, instead of contactpoint.file and whitelist.file: emails by account (`account,email` a line)
    /// or a whitelist (an email a line), which its first line tells unless --only does
    pub file: Option<PathBuf>,

    /// Build one of the two
    #[arg(long, value_enum, value_name = "WHICH")]
    pub only: Option<Only>,

    /// Where to write what is built from FILE, instead of contactpoint.lmdb or whitelist.lmdb
    #[arg(long, value_name = "FILE", requires = "file")]
    pub out: Option<PathBuf>,
}

/// A text file, and the file that it becomes.
#[derive(Debug, PartialEq, Eq)]
struct Job {
    layout: Layout,
    input: PathBuf,
    out: PathBuf,
}

/// Builds what `arguments` ask for.
pub fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<()> {
    let emails: contactpoint::Options = context.config.section(contactpoint::ROLE.name)?;
    let listed: whitelist::Options = context.config.section(whitelist::ROLE.name)?;
    let emails = Job { layout: Layout::Pair, input: emails.file, out: emails.lmdb };
    let listed = Job { layout: Layout::Single, input: listed.file, out: listed.lmdb };
    jobs(arguments, emails, listed)?.iter().try_for_each(|job| build(job, &context.shutdown))
}

/// What to build, `emails` and `listed` being as configured.
fn jobs(arguments: &Arguments, emails: Job, listed: Job) -> Result<Vec<Job>, Misconfigured> {
    let Some(file) = &arguments.file else {
        return Ok(match arguments.only {
            Some(Only::Emails) => vec![emails],
            Some(Only::Whitelist) => vec![listed],
            None => vec![emails, listed],
        });
    };
    let pair = match arguments.only {
        Some(only) => only == Only::Emails,
        None => begins_with_a_pair(file)?,
    };
    let mut job = if pair { emails } else { listed };
    job.input.clone_from(file);
    if let Some(out) = &arguments.out {
        job.out.clone_from(out);
    }
    Ok(vec![job])
}

/// Whether the first line of `file` has a comma, as no line of a whitelist has.
fn begins_with_a_pair(file: &Path) -> Result<bool, Misconfigured> {
    let unreadable = |error: io::Error| unreadable(file, error.kind());
    let kind = file.metadata().map_err(unreadable)?.file_type();
    // What is read of a pipe is gone
    if !kind.is_file() && !kind.is_dir() {
        let file = file.display();
        return Err(Misconfigured(format!("{file}: is not a regular file, say with --only what it holds")));
    }
    let mut line = Vec::new();
    let file = File::open(file).map_err(unreadable)?;
    BufReader::new(file.take(1 << 16)).read_until(b'\n', &mut line).map_err(unreadable)?;
    Ok(line.contains(&b','))
}

fn build(job: &Job, shutdown: &Shutdown) -> anyhow::Result<()> {
    let begun = Instant::now();
    let bar = progress::of_file(&job.input);
    let built = lmdb::build(&job.input, job.layout, &job.out, &mut |step| {
        if shutdown.requested() {
            return Err(anyhow!("interrupted, {} is as it was", job.out.display()));
        }
        match step {
            Step::Read(bytes) => bar.set_position(bytes),
            Step::Write { done, of } => {
                bar.set_message(job.out.display().to_string());
                bar.set_length(of);
                bar.set_position(done);
            }
        }
        Ok(())
    });
    bar.finish_and_clear();
    let built = built?;
    let (input, out, megabytes) = (job.input.display(), job.out.display(), built.bytes.div_ceil(1_000_000));
    info!("built {out} from {input}: {} emails, {megabytes} MB in {:.1?}", built.lines, begun.elapsed());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_known_by_its_first_line_unless_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let pairs = path("pairs", "1,a@x\n2,b@x\n");
        let singles = path("singles", "a@x\nb@x,c\n");
        let job = |layout, input: &Path, out: &str| Job { layout, input: input.into(), out: out.into() };
        let emails = || job(Layout::Pair, Path::new("emails.dat"), "emails.lmdb");
        let listed = || job(Layout::Single, Path::new("whitelist.dat"), "whitelist.lmdb");
        let jobs = |file: Option<&Path>, only, out: Option<&str>| {
            let arguments = Arguments { file: file.map(Into::into), only, out: out.map(Into::into) };
            jobs(&arguments, emails(), listed()).map_err(|error| error.to_string())
        };
        assert_eq!(jobs(None, None, None), Ok(vec![emails(), listed()]));
        assert_eq!(jobs(None, Some(Only::Emails), None), Ok(vec![emails()]));
        assert_eq!(jobs(None, Some(Only::Whitelist), None), Ok(vec![listed()]));
        assert_eq!(jobs(Some(&pairs), None, None), Ok(vec![job(Layout::Pair, &pairs, "emails.lmdb")]));
        assert_eq!(jobs(Some(&singles), None, Some("x")), Ok(vec![job(Layout::Single, &singles, "x")]));
        let told = jobs(Some(&singles), Some(Only::Emails), None);
        assert_eq!(told, Ok(vec![job(Layout::Pair, &singles, "emails.lmdb")]));
        let pipe = Path::new("/dev/null");
        let error = "/dev/null: is not a regular file, say with --only what it holds";
        assert_eq!(jobs(Some(pipe), None, None), Err(error.to_owned()));
        let told = jobs(Some(pipe), Some(Only::Emails), None);
        assert_eq!(told, Ok(vec![job(Layout::Pair, pipe, "emails.lmdb")]));
    }
}
