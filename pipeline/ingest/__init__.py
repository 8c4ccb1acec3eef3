"""Published data sets -> the event-log contract. One file a data set; what they share lies beside them."""
