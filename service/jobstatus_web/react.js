// React hooks: the status of jobs, live.
//
//   const { status, error } = useJob(id, client);
//
// All components share the client's stream. Create the client once, outside of components, or provide it:
// <JobStatusContext value={client}> (with React 18, <JobStatusContext.Provider value={client}>).

import { createContext, useCallback, useContext, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";

import { jobUuid, NOTHING_KNOWN } from "./client.js";

/** @typedef {import("./client.js").JobStatusClient} JobStatusClient */
/** @typedef {import("./client.js").Snapshot} Snapshot */

/** The client of `useJob` and `useJobs` where they are called without one. */
export const JobStatusContext = createContext(/** @type {JobStatusClient | null} */ (null));

/**
 * Return what is known of a job, and render again after each change.
 * @param {string | null | undefined} id any id of the job; nothing is watched without one
 * @param {JobStatusClient} [client]
 * @returns {Snapshot}
 */
export function useJob(id, client) {
  const [snapshot] = useJobs(id ? [id] : [], client);
  return snapshot ?? NOTHING_KNOWN;
}

/**
 * Return what is known of jobs, in the order of their ids, and render again after each change.
 * @param {string[]} ids
 * @param {JobStatusClient} [client]
 * @returns {Snapshot[]}
 */
export function useJobs(ids, client) {
  const context = useContext(JobStatusContext);
  const used = client ?? context;
  if (!used) throw new Error("useJob and useJobs need a client: as an argument, or in JobStatusContext.");
  const key = JSON.stringify(ids);
  const [resolved, setResolved] = useState(/** @type {{ key: string, uuids: string[], error?: Error } | null} */ (null));

  useEffect(() => {
    let isCurrent = true;
    Promise.all(ids.map(jobUuid)).then(
      (uuids) => isCurrent && setResolved({ key, uuids }),
      (error) => isCurrent && setResolved({ key, uuids: [], error }),
    );
    return () => {
      isCurrent = false;
    };
    // The dependency is `key`, since the array of the ids may be a new one each time.
  }, [key]);

  const uuids = resolved?.key === key ? resolved.uuids : NO_UUIDS;
  const subscribe = useCallback(
    (/** @type {() => void} */ changed) => {
      const ends = uuids.map((uuid) => used.subscribe(uuid, changed));
      return () => ends.forEach((end) => end());
    },
    [used, uuids],
  );
  const last = useRef(/** @type {Snapshot[]} */ ([]));
  const getSnapshot = () => {
    const snapshots = uuids.map((uuid) => used.snapshot(uuid));
    const isSame = snapshots.length === last.current.length && snapshots.every((each, i) => each === last.current[i]);
    return isSame ? last.current : (last.current = snapshots);
  };
  const snapshots = useSyncExternalStore(subscribe, getSnapshot, () => NO_SNAPSHOTS);
  const error = resolved?.key === key ? resolved.error : undefined;
  return useMemo(
    () => ids.map((_, i) => snapshots[i] ?? (error ? { ...NOTHING_KNOWN, error } : NOTHING_KNOWN)),
    [key, snapshots, error],
  );
}

/** @type {string[]} */
const NO_UUIDS = [];

/** @type {Snapshot[]} */
const NO_SNAPSHOTS = [];
