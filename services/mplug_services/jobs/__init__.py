"""Long work that outlives its call, its client and the server's process; protobuf stays in `job_service.py`.

```
jobs_dir/
  lock                 one server at a time
  incoming/            what is being sent; emptied when a server starts
  JOB/
    job.json           the job (records.py); a job is there once its folder is, and changes by the file's replacement
    data/              what its client sent: pictures, and .rows.jsonl; until it ends
    order.json         what its process is to do
    output/            as `mplug train --output`: log, checkpoints until it ends, the model that came out
    result.json        what its process says at its end
    process.log        what its process printed
```
"""
