"""``medd plan``: how many hosts so many films a day need, from what each stage costs and how queues behave."""
