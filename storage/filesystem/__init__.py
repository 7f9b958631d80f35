"""The file system driver: an object is a file, and its key the path below the data directory."""

from storage.filesystem.driver import FileSystemDriver

__all__ = ["FileSystemDriver"]
