//! Encodes the files of static folders that are worth it, once, so that no box ever has to.
//!
//! Worth it is a file of text or the like, of a size in the limits, of which an encoding saves a tenth. An author who
//! has made `app.js.br`, `.zst` or `.gz` beside `app.js` knows better, and theirs is taken if it unpacks to the file.
//! What was encoded before is kept in the project's `.firm/`, by the file's digest, and taken from there only if it
//! still unpacks to it: a bad disk must not publish itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use api::{Encoded, Encoding};
use base::Digest;
use base::limits::{ENCODED_FILE_BYTES_MAX, ENCODED_FILE_BYTES_MIN, ENCODERS_AT_ONCE_MAX, ENCODING_SAVES_PERCENT_MIN};
use tempfile::{NamedTempFile, TempDir};

use crate::assets::Asset;
use crate::chunk::{self, ChunkError};
use crate::push::{Piece, PushError, Step, pieces};

/// Goes up when the same file would be encoded otherwise, so that what was kept is made anew.
const SHELF: &str = ".firm/encoded/1";

/// How long an encoding that no push takes is kept: as long as people come back to a branch.
const KEPT_UNUSED: Duration = Duration::from_hours(24 * 7);

/// By trial on 4 MB of HTML, CSS and scripts: 10 packs to 92 % of what 9 does in twice its time (2 s), 11 to 90 % in five
/// times.
const BROTLI_QUALITY: i32 = 10;
/// 4 MiB of window, the largest that every browser takes without asking is 16.
const BROTLI_WINDOW_BITS: i32 = 22;
/// Its window is 8 MiB, the largest that a browser has to take (RFC 9659); from 20 on it is larger.
const ZSTD_LEVEL: i32 = 19;

/// Where encodings lie: in the project, or, where that can't be written, in a folder that goes with this.
pub(crate) struct Shelf {
    dir: PathBuf,
    _temporary: Option<TempDir>,
}

/// What encoding came to.
pub(crate) struct Outcome {
    pub pieces: Vec<(Digest, Piece)>,
    pub warnings: Vec<String>,
    pub shelf: Shelf,
}

/// A file to encode.
struct Job<'a> {
    asset: &'a Asset,
    digest: Digest,
    /// The author's own, by encoding.
    own: BTreeMap<Encoding, &'a Asset>,
}

/// What became of a job.
struct Done {
    digest: Digest,
    made: Vec<(Encoding, PathBuf, api::File)>,
    warnings: Vec<String>,
}

/// Encodes what is worth it of each folder, and notes it in the files' entries.
pub(crate) fn encode(
    root: &Path,
    mut folders: Vec<(&[Asset], &mut BTreeMap<String, api::File>)>,
    told: &dyn Fn(Step<'_>),
) -> Result<Outcome, PushError> {
    // Files that are alike are encoded once.
    let mut jobs: HashMap<Digest, Job<'_>> = HashMap::new();
    for (assets, files) in &folders {
        for job in worth_it(assets, files) {
            jobs.entry(job.digest).and_modify(|held| held.own.extend(&job.own)).or_insert(job);
        }
    }
    let mut jobs: Vec<_> = jobs.into_values().collect();
    // The largest first: none of them is what all wait for at the end.
    jobs.sort_by_key(|job| (std::cmp::Reverse(job.asset.size), job.digest));
    let shelf = if jobs.is_empty() { Shelf::none() } else { Shelf::open(root)? };
    let done = run(&shelf, &jobs, told)?;
    let mut outcome = Outcome { pieces: Vec::new(), warnings: Vec::new(), shelf };
    let mut encodings: HashMap<Digest, BTreeMap<Encoding, Encoded>> = HashMap::new();
    for Done { digest, made, warnings } in done {
        outcome.warnings.extend(warnings);
        for (encoding, path, file) in made {
            outcome.pieces.extend(pieces(&path, &file.chunks));
            let chunks = if file.chunks.len() == 1 { Vec::new() } else { file.chunks };
            let encoded = Encoded { digest: file.digest, size: file.size, chunks };
            encodings.entry(digest).or_default().insert(encoding, encoded);
        }
    }
    for file in folders.iter_mut().flat_map(|(_, files)| files.values_mut()) {
        if let Some(encodings) = encodings.get(&file.digest) {
            file.encodings.clone_from(encodings);
        }
    }
    outcome.warnings.sort();
    outcome.shelf.tidy(&jobs);
    Ok(outcome)
}

fn worth_it<'a>(assets: &'a [Asset], files: &BTreeMap<String, api::File>) -> Vec<Job<'a>> {
    let by_path: HashMap<&str, &Asset> = assets.iter().map(|asset| (asset.path.as_str(), asset)).collect();
    let job = |asset: &'a Asset| {
        let size = ENCODED_FILE_BYTES_MIN..=ENCODED_FILE_BYTES_MAX;
        let file = files.get(&asset.path).filter(|file| size.contains(&file.size))?;
        let own = |encoding| Some((encoding, *by_path.get(&*format!("{}.{}", asset.path, suffix(encoding)))?));
        let own: BTreeMap<_, _> = Encoding::ALL.into_iter().filter_map(own).collect();
        (!own.is_empty() || is_text(asset)).then_some(Job { asset, digest: file.digest, own })
    };
    assets.iter().filter_map(job).collect()
}

/// How authors end the name of an encoded file.
fn suffix(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Br => "br",
        Encoding::Zstd => "zst",
        Encoding::Gzip => "gz",
    }
}

/// Is it of a type that isn't packed already? Of one that nobody knows, its first bytes say.
fn is_text(asset: &Asset) -> bool {
    let Some(kind) = mime_guess::from_path(&asset.path).first_raw() else {
        let mut start = Vec::new();
        let read = fs::File::open(&asset.file).and_then(|file| file.take(1_024).read_to_end(&mut start));
        // The last character may be cut.
        let text = str::from_utf8(&start).map_or_else(|error| error.error_len().is_none(), |_| true);
        return read.is_ok() && text && !start.contains(&0);
    };
    let packs_well = [
        "application/javascript",
        "application/json",
        "application/wasm",
        "application/xml",
        "application/vnd.ms-fontobject",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/x-icon",
    ];
    kind.starts_with("text/") || kind.ends_with("+json") || kind.ends_with("+xml") || packs_well.contains(&kind)
}

/// Does the jobs on all cores, and tells how far they are.
fn run(shelf: &Shelf, jobs: &[Job<'_>], told: &dyn Fn(Step<'_>)) -> Result<Vec<Done>, PushError> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(ENCODERS_AT_ONCE_MAX).min(jobs.len());
    let next = AtomicUsize::new(0);
    let (sender, receiver) = channel();
    let work = |sender: Sender<_>| {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Nobody hears it any more when another job has failed.
            if sender.send(done(shelf, job).map(|done| (job.asset.size, done))).is_err() {
                return;
            }
        }
    };
    let total = jobs.iter().map(|job| job.asset.size).sum();
    thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        let mut so_far = 0;
        let mut all = Vec::new();
        for result in receiver {
            let (size, done) = result?;
            so_far += size;
            told(Step::Encoding { done: so_far, total });
            all.push(done);
        }
        Ok(all)
    })
}

fn done(shelf: &Shelf, job: &Job<'_>) -> Result<Done, PushError> {
    let (asset, digest) = (job.asset, job.digest);
    let unread = |path: &Path, source| PushError::File { path: path.to_owned(), source };
    let bytes = fs::read(&asset.file).map_err(|source| unread(&asset.file, source.into()))?;
    if Digest::of(&bytes) != digest {
        return Err(unread(&asset.file, ChunkError::Changed));
    }
    let mut done = Done { digest, made: Vec::new(), warnings: Vec::new() };
    for encoding in Encoding::ALL {
        let own = job.own.get(&encoding);
        let path = match own {
            Some(own) if is_of(&own.file, encoding, &bytes) => own.file.clone(),
            Some(own) => {
                let said = format!("`{}` doesn't unpack to `{}`, or isn't smaller", own.path, asset.path);
                done.warnings.push(format!("{said}: visitors aren't sent it in place of that"));
                shelf.path(digest, encoding)
            }
            None => shelf.path(digest, encoding),
        };
        if path.starts_with(&shelf.dir) {
            shelf.fill(&path, encoding, &bytes)?;
        }
        let size = fs::metadata(&path).map_err(|source| unread(&path, source.into()))?.len();
        if size > 0 {
            let file = chunk::cut(&path, size, &mut |_| {}).map_err(|source| unread(&path, source))?;
            done.made.push((encoding, path, file));
        }
    }
    Ok(done)
}

impl Shelf {
    fn none() -> Self {
        Self { dir: PathBuf::new(), _temporary: None }
    }

    fn open(root: &Path) -> Result<Self, PushError> {
        let dir = root.join(SHELF);
        let ready = || {
            fs::create_dir_all(&dir)?;
            // What git doesn't see isn't a change of the project.
            fs::write(dir.join(".gitignore"), "*\n")
        };
        if ready().is_ok() {
            return Ok(Self { dir, _temporary: None });
        }
        let temporary = tempfile::tempdir().map_err(|source| PushError::Encoded { path: dir, source })?;
        Ok(Self { dir: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    fn path(&self, digest: Digest, encoding: Encoding) -> PathBuf {
        self.dir.join(format!("{digest}.{}", suffix(encoding)))
    }

    /// Puts the encoding there, if it isn't. An empty file says that it isn't worth it.
    fn fill(&self, path: &Path, encoding: Encoding, bytes: &[u8]) -> Result<(), PushError> {
        let is_empty = fs::metadata(path).is_ok_and(|about| about.len() == 0);
        if is_empty || is_of(path, encoding, bytes) {
            return Ok(());
        }
        let kept = || {
            let packed = pack(encoding, bytes)?;
            let most = bytes.len() as u64 * (100 - ENCODING_SAVES_PERCENT_MIN) / 100;
            let mut file = NamedTempFile::new_in(&self.dir)?;
            if packed.len() as u64 <= most {
                file.write_all(&packed)?;
            }
            file.persist(path)?;
            Ok(())
        };
        kept().map_err(|source| PushError::Encoded { path: path.to_owned(), source })
    }

    /// Takes away what hasn't been used for long. What can't be taken away is tried the next time.
    fn tidy(&self, jobs: &[Job<'_>]) {
        let used: HashSet<String> = jobs.iter().map(|job| job.digest.hex()).collect();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.split_once('.')).map_or("", |(digest, _)| digest);
            let age = entry.metadata().and_then(|about| about.modified()).ok().and_then(|at| at.elapsed().ok());
            if !digest.is_empty() && !used.contains(digest) && age.is_some_and(|age| age > KEPT_UNUSED) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Does the file at `path` unpack to `bytes`, and is it smaller? Unpacks no further than it must to know.
fn is_of(path: &Path, encoding: Encoding, bytes: &[u8]) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    if !file.metadata().is_ok_and(|about| (1..bytes.len() as u64).contains(&about.len())) {
        return false;
    }
    let mut unpacked = Vec::new();
    unpack(encoding, file, bytes.len() as u64 + 1, &mut unpacked).is_ok() && unpacked == bytes
}

fn pack(encoding: Encoding, bytes: &[u8]) -> io::Result<Vec<u8>> {
    match encoding {
        Encoding::Br => {
            let params = brotli::enc::BrotliEncoderParams {
                quality: BROTLI_QUALITY,
                lgwin: BROTLI_WINDOW_BITS,
                size_hint: bytes.len(),
                ..Default::default()
            };
            let mut packed = Vec::new();
            brotli::BrotliCompress(&mut &*bytes, &mut packed, &params)?;
            Ok(packed)
        }
        Encoding::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL),
        Encoding::Gzip => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            packed.write_all(bytes)?;
            packed.finish()
        }
    }
}

fn unpack(encoding: Encoding, file: fs::File, most: u64, to: &mut Vec<u8>) -> io::Result<usize> {
    let file = io::BufReader::new(file);
    match encoding {
        Encoding::Br => brotli::Decompressor::new(file, 64 << 10).take(most).read_to_end(to),
        Encoding::Zstd => zstd::Decoder::with_buffer(file)?.take(most).read_to_end(to),
        Encoding::Gzip => flate2::bufread::MultiGzDecoder::new(file).take(most).read_to_end(to),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::assets::{self, Tally};

    struct Site {
        root: TempDir,
        files: BTreeMap<String, api::File>,
        outcome: Option<Outcome>,
        /// Bytes that were told of.
        told: u64,
    }

    impl Site {
        fn of(files: &[(&str, &[u8])]) -> Self {
            let root = tempfile::tempdir().expect("a folder for the test");
            for (path, bytes) in files {
                fs::write(root.path().join(path), bytes).expect("a file for the test");
            }
            Self { root, files: BTreeMap::new(), outcome: None, told: 0 }.encoded()
        }

        fn encoded(mut self) -> Self {
            let listed = assets::list(self.root.path(), ".", &mut Tally::default()).expect("it can be listed");
            let cut = |asset: &Asset| chunk::cut(&asset.file, asset.size, &mut |_| {}).expect("nobody changes it");
            self.files = listed.iter().map(|asset| (asset.path.clone(), cut(asset))).collect();
            let told = Mutex::new(0);
            let outcome = encode(self.root.path(), vec![(&listed, &mut self.files)], &|step| {
                if let Step::Encoding { done, total } = step {
                    assert!(done <= total);
                    *told.lock().expect("no test panics with it") = done;
                }
            });
            self.outcome = Some(outcome.expect("nothing is wrong"));
            self.told = told.into_inner().expect("no test panics with it");
            self
        }

        fn of_file(&self, path: &str) -> Vec<Encoding> {
            self.files[path].encodings.keys().copied().collect()
        }
    }

    fn text(words: &str) -> Vec<u8> {
        words.repeat(400).into_bytes()
    }

    #[test]
    fn text_is_encoded_and_pictures_and_crumbs_are_not() {
        let mut noise = vec![0; 8_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let page = text("<p>G'day</p>\n");
        let site = Site::of(&[
            ("index.html", &page),
            ("same.html", &page),
            ("photo.jpg", &page[1..]),
            ("small.css", b"p { color: red }"),
            ("noise.txt", &noise),
            ("LICENCE", &page[..2_000]),
        ]);
        for path in ["index.html", "same.html", "LICENCE"] {
            assert_eq!(site.of_file(path), Encoding::ALL, "{path}");
        }
        for path in ["photo.jpg", "small.css", "noise.txt"] {
            assert_eq!(site.of_file(path), [], "{path}");
        }
        for encoded in site.files.values().flat_map(|file| file.encodings.values()) {
            let pieces = &site.outcome.as_ref().expect("it was encoded").pieces;
            assert!(encoded.pieces().iter().all(|chunk| pieces.iter().any(|(digest, _)| *digest == chunk.digest)));
        }
    }

    #[test]
    fn what_was_encoded_is_taken_again_unless_it_is_damaged() {
        let site = Site::of(&[("index.html", &text("one line\n"))]);
        let before = site.files.clone();
        let shelf = site.root.path().join(SHELF);
        let digest = site.files["index.html"].digest;
        let (kept, damaged) = (shelf.join(format!("{digest}.gz")), shelf.join(format!("{digest}.br")));
        let at = fs::metadata(&kept).and_then(|about| about.modified()).expect("it was kept");
        fs::write(&damaged, "no brotli").expect("it is the test's own");
        let site = site.encoded();
        assert_eq!(site.files, before);
        assert_eq!(fs::metadata(&kept).and_then(|about| about.modified()).expect("it is there"), at);
        assert_eq!(site.told, 400 * 9);
    }

    #[test]
    fn the_author_s_own_is_taken_if_it_is_of_the_file() {
        let script = text("let x = 1;\n");
        let own = pack(Encoding::Gzip, &script).expect("it can be packed");
        let stale = pack(Encoding::Br, b"something else").expect("it can be packed");
        let site = Site::of(&[("app.js", &script), ("app.js.gz", &own), ("app.js.br", &stale), ("other.js.zst", b"x")]);
        let encodings = &site.files["app.js"].encodings;
        assert_eq!(encodings[&Encoding::Gzip].digest, Digest::of(&own));
        assert_ne!(encodings[&Encoding::Br].digest, Digest::of(&stale));
        let warnings = &site.outcome.as_ref().expect("it was encoded").warnings;
        assert!(
            matches!(&**warnings, [one] if one.starts_with("`app.js.br` doesn't unpack to `app.js`")),
            "{warnings:?}"
        );
        // They are files of their own too.
        assert!(site.files.contains_key("app.js.gz"));
    }

    #[test]
    fn what_unpacks_to_more_than_the_file_is_no_bomb() {
        let bomb = pack(Encoding::Gzip, &vec![0; 64 << 20]).expect("it can be packed");
        let script = text("0123456789").repeat(20);
        assert!(bomb.len() < script.len());
        let site = Site::of(&[("app.js", &script), ("app.js.gz", &bomb)]);
        assert_ne!(site.files["app.js"].encodings[&Encoding::Gzip].digest, Digest::of(&bomb));
    }

    #[test]
    fn a_project_that_can_t_be_written_is_encoded_all_the_same() {
        let site = Site::of(&[("index.html", &text("one line\n"))]);
        fs::remove_dir_all(site.root.path().join(".firm")).expect("it is the test's own");
        // Not a folder, and nobody's rights make it one.
        fs::write(site.root.path().join(".firm"), "").expect("it is the test's own");
        let site = site.encoded();
        assert_eq!(site.of_file("index.html"), Encoding::ALL);
        let shelf = &site.outcome.as_ref().expect("it was encoded").shelf;
        assert!(!shelf.dir.starts_with(site.root.path()));
    }
}
