runtime = dict(seed=1, amp=False, num_workers=0, log_interval=20)
