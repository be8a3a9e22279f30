"""The store in a folder. An append writes to the journal and to its stream; a read uses one of them.

A durable append to an open stream, from the call down:

    eventstore.base            EventStore.append
      events.serializer          EventSerializer.encode_all
      filestore.store            FileEventStore._commit
        filestore.writer           Writer.commit
          filestore.write_session    WriteSession.enter
            system.file_lock           FileLock.take
            filestore.shared_state     SharedState.raw
          filestore.open_streams     OpenStreams.get
          record.batch               encode_batch
            record.line                encode_records
          filestore.writer           Writer._write
            log.active_segment         ActiveSegment.append
              system.filesystem          FileSystem.write
            filestore.writer           Writer._write_streams
              log.active_segment         ActiveSegment.append
              filestore.catalog          Catalog.put
            filestore.checkpointing    Checkpointing.tail_after
            filestore.shared_state     SharedState.publish
          filestore.write_session    WriteSession.leave
        filestore.group_sync       JournalSync.ensure
          filestore.group_sync       JournalSync._try
            system.file_lock           FileLock.take
            filestore.session          FolderWatch.changed
            filestore.group_sync       JournalSync._sync
              filestore.commit_ring      Ring.write
              filestore.shared_state     SharedState.made_durable
              filestore.shared_state     SharedState.count_sync
                filestore.counters         count_sync

A read of a short stream:

    eventstore.base            EventStore.read_stream
      filestore.store            FileEventStore._blocks
        filestore.store            FileEventStore._committed
          filestore.shared_state     SharedState.look
        filestore.reader           Reader.blocks
        filestore.reader           Reader._stream_forward
          filestore.folder           Folder.stream
          filestore.catalog          Catalog.get
          filestore.shown_blocks     up_to
          log.log                    Log.forward
            log.segment_cache          SegmentCache.active
            log.segment                Segment.lines_at
              system.filesystem          FileSystem.read
            log.segment                Segment.decode
              record.line                decode_record
      events.block_reader        TypedBlocks.events

tests/filestore/test_traces.py checks both.
"""
