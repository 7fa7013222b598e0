"""The predictor: one verified model bundle behind the KServe inference protocol, V1 and V2.

    python -m serving.predictor --bundle DIR [--host 127.0.0.1] [--http_port 8080]

`protocol` says what bytes mean, `model` scores, `app` routes and bounds, `__main__` starts it all.
"""
