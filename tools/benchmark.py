"""The former name of `measure.py networks`; removed in version 1.1."""

from measure import alias

if __name__ == '__main__':
    alias('networks')
