//! Cuts a file into chunks by its content, and reads one of them again.
//!
//! Cuts depend on the bytes around them alone (`FastCDC`, Xia et al. 2016 and 2020), so that a changed line costs
//! the chunk it lies in and not all that follow. Memory is one chunk, whatever the file's size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use base::Digest;
use base::limits::{CHUNK_BYTES_AVG, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use bytes::Bytes;
use fastcdc::v2020::StreamCDC;

/// Why a file has no chunks.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    #[error("it can't be read")]
    Read(#[from] io::Error),
    #[error("it changed while it was read")]
    Changed,
}

/// The chunks of the file at `path`, which had `size` bytes when it was listed. `each` learns how many bytes
/// more were read.
pub(crate) fn cut(path: &Path, size: u64, each: &mut dyn FnMut(u64)) -> Result<api::File, ChunkError> {
    let file = File::open(path)?;
    let before = stamp(&file)?;
    let mut whole = blake3::Hasher::new();
    let mut chunks = Vec::new();
    let mut read = 0;
    let mut chunk = |bytes: &[u8]| {
        whole.update(bytes);
        let size = bytes.len() as u64;
        chunks.push(api::Chunk { digest: Digest::of(bytes), size });
        read += size;
        each(size);
    };
    // One byte more than expected is enough to see that a file grew.
    let source = (&file).take(size + 1);
    if size <= CHUNK_BYTES_MIN as u64 {
        // What is no larger than the least chunk is one; the streaming chunker would zero 4 MiB for each.
        let mut bytes = Vec::new();
        { source }.read_to_end(&mut bytes)?;
        if !bytes.is_empty() {
            chunk(&bytes);
        }
    } else {
        for cut in StreamCDC::new(source, CHUNK_BYTES_MIN, CHUNK_BYTES_AVG, CHUNK_BYTES_MAX) {
            chunk(&cut.map_err(io::Error::from)?.data);
        }
    }
    if read != size || stamp(&file)? != before {
        return Err(ChunkError::Changed);
    }
    Ok(api::File { digest: whole.finalize().into(), size, chunks, encodings: BTreeMap::new() })
}

fn stamp(file: &File) -> io::Result<(u64, SystemTime)> {
    let about = file.metadata()?;
    Ok((about.len(), about.modified()?))
}

/// The chunk `digest` again, which was cut at `offset`.
pub(crate) fn read(path: &Path, offset: u64, size: u64, digest: &Digest) -> Result<Bytes, ChunkError> {
    let size = usize::try_from(size).map_err(|_| ChunkError::Changed)?;
    let mut bytes = vec![0; size];
    match File::open(path)?.read_exact_at(&mut bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ChunkError::Changed),
        done => done?,
    }
    if Digest::of(&bytes) == *digest { Ok(bytes.into()) } else { Err(ChunkError::Changed) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// Bytes that don't repeat, so that cuts fall by content.
    fn noise(seed: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cut_bytes(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf, api::File) {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("file");
        fs::write(&path, bytes).expect("a file for the test");
        let file = cut(&path, bytes.len() as u64, &mut |_| {}).expect("nobody changes it");
        (folder, path, file)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn chunks_reassemble(seed: u64, size in prop_oneof![0..8_usize, 0..3 * CHUNK_BYTES_MAX]) {
            let bytes = noise(seed, size);
            let (_folder, path, file) = cut_bytes(&bytes);
            prop_assert_eq!(file.digest, Digest::of(&bytes));
            let mut again = Vec::new();
            for chunk in &file.chunks {
                prop_assert!(chunk.size <= CHUNK_BYTES_MAX as u64 && chunk.size > 0);
                again.extend_from_slice(&read(&path, again.len() as u64, chunk.size, &chunk.digest).expect("unchanged"));
            }
            prop_assert!(again == bytes);
        }
    }

    #[test]
    fn a_byte_in_front_leaves_most_chunks_as_they_were() {
        let mut bytes = noise(7, 24 << 20);
        let (_folder, _, before) = cut_bytes(&bytes);
        bytes.insert(0, b'!');
        let (_folder, _, after) = cut_bytes(&bytes);
        let kept = after.chunks.iter().filter(|chunk| before.chunks.contains(chunk)).count();
        assert!(kept + 2 >= before.chunks.len(), "{kept} of {}", before.chunks.len());
    }

    #[test]
    fn a_file_of_another_size_than_listed_changed() {
        let (_folder, path, _) = cut_bytes(b"twelve bytes");
        for size in [0, 11, 13] {
            assert!(matches!(cut(&path, size, &mut |_| {}), Err(ChunkError::Changed)), "{size}");
        }
    }

    #[test]
    fn a_chunk_that_changed_is_not_sent() {
        let (_folder, path, file) = cut_bytes(b"as it was");
        let chunk = &file.chunks[0];
        fs::write(&path, b"as it isn").expect("it is the test's own");
        assert!(matches!(read(&path, 0, chunk.size, &chunk.digest), Err(ChunkError::Changed)));
        fs::write(&path, b"short").expect("it is the test's own");
        assert!(matches!(read(&path, 0, chunk.size, &chunk.digest), Err(ChunkError::Changed)));
    }
}
